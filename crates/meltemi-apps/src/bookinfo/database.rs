//! The databases of bookinfo, and ratings' way to them: the stars of the two reviewers over a TCP connection.
//!
//! Not MongoDB's or MySQL's protocol but a few lines of text, enough for a mesh to have TCP connections to route, to
//! encrypt and to count. Who speaks first is as with the originals: MySQL's server, MongoDB's client.

use std::io;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::serve;

/// What the original images are filled with.
const STARS: [u8; 2] = [5, 4];
/// A database that has not answered until then is away.
const LIMIT: Duration = Duration::from_secs(10);
const LINE_LIMIT_BYTES: u64 = 1024;
const GREETING: &str = "mysql";
const HELLO: &str = "hello";
const WELCOME: &str = "ok";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port to listen on.
    #[arg(long)]
    port: u16,
    /// What the manifest says to the original; it has no meaning here.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    original: Vec<String>,
}

/// Which database, with what its clients need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Database {
    Mongo {
        address: String,
    },
    Mysql {
        address: String,
        user: String,
        password: String,
    },
}

/// What ratings answers where its database does not (ratings.js of the original).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Connect,
    Load,
}

impl Failure {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Connect => "could not connect to ratings database",
            Self::Load => "could not load ratings from database",
        }
    }
}

impl Database {
    /// The database that the environment names, as the original reads it.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        if variable("DB_TYPE").as_deref() != Some("mysql") {
            let url = variable("MONGO_DB_URL")?;
            return Some(Self::Mongo {
                address: mongo_address(&url),
            });
        }
        let host = variable("MYSQL_DB_HOST")?;
        let port = variable("MYSQL_DB_PORT").unwrap_or_else(|| "3306".to_owned());
        Some(Self::Mysql {
            address: format!("{host}:{port}"),
            user: variable("MYSQL_DB_USER").unwrap_or_default(),
            password: variable("MYSQL_DB_PASSWORD").unwrap_or_default(),
        })
    }

    /// Asks for the stars, over a connection of its own as the original does.
    pub(super) async fn stars(&self) -> Result<[u8; 2], Failure> {
        let (Self::Mongo { address } | Self::Mysql { address, .. }) = self;
        let connected = tokio::time::timeout(LIMIT, self.connect(address)).await;
        let mut stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                println!("{address}: {error}");
                return Err(Failure::Connect);
            }
            Err(_) => return Err(Failure::Connect),
        };
        let loaded = tokio::time::timeout(LIMIT, load(&mut stream)).await;
        loaded.ok().and_then(Result::ok).ok_or(Failure::Load)
    }

    async fn connect(&self, address: &str) -> io::Result<BufStream<TcpStream>> {
        let mut stream = BufStream::new(TcpStream::connect(address).await?);
        match self {
            // A sidecar takes a connection before it knows whether the database does: only an answer is one.
            Self::Mongo { .. } => say(&mut stream, HELLO).await?,
            Self::Mysql { user, password, .. } => {
                expect(&mut stream, GREETING).await?;
                say(&mut stream, &format!("{user} {password}")).await?;
            }
        }
        expect(&mut stream, WELCOME).await?;
        Ok(stream)
    }
}

/// Host and port of `mongodb://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`.
fn mongo_address(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:27017")
    }
}

async fn load(stream: &mut BufStream<TcpStream>) -> io::Result<[u8; 2]> {
    say(stream, "ratings").await?;
    let line = hear(stream).await?;
    let mut stars = line.split(' ').map(str::parse);
    match (stars.next(), stars.next()) {
        (Some(Ok(first)), Some(Ok(second))) => Ok([first, second]),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Serves as MongoDB: the client speaks first.
pub(super) async fn mongo(options: Options) -> anyhow::Result<()> {
    accept(serve::listen(options.port).await?, None).await
}

/// Serves as MySQL: greets, and lets only root in, with `MYSQL_ROOT_PASSWORD`.
pub(super) async fn mysql(options: Options) -> anyhow::Result<()> {
    let password = serve::env_or("MYSQL_ROOT_PASSWORD", "");
    accept(serve::listen(options.port).await?, Some(password)).await
}

async fn accept(listener: TcpListener, password: Option<String>) -> anyhow::Result<()> {
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, source) = listener.accept().await?;
        let password = password.clone();
        tokio::spawn(async move {
            let mut stream = BufStream::new(stream);
            if let Err(error) = answer(&mut stream, password.as_deref()).await {
                println!("{source}: {error}");
            }
        });
    }
}

/// Answers one connection until the client has heard enough.
async fn answer(stream: &mut BufStream<TcpStream>, password: Option<&str>) -> io::Result<()> {
    let wanted = match password {
        None => HELLO.to_owned(),
        Some(password) => {
            say(stream, GREETING).await?;
            format!("root {password}")
        }
    };
    if hear(stream).await? != wanted {
        return say(stream, "access denied").await;
    }
    say(stream, WELCOME).await?;
    let [first, second] = STARS;
    while hear(stream).await? == "ratings" {
        say(stream, &format!("{first} {second}")).await?;
    }
    Ok(())
}

async fn say(stream: &mut BufStream<TcpStream>, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    stream.flush().await
}

/// The next line; an empty one at the end.
async fn hear(stream: &mut BufStream<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_LIMIT_BYTES).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

async fn expect(stream: &mut BufStream<TcpStream>, wanted: &str) -> io::Result<()> {
    let heard = hear(stream).await?;
    if heard == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "expected {wanted:?}, heard {heard:?}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn served(password: Option<&str>) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(accept(listener, password.map(str::to_owned)));
        address
    }

    #[tokio::test]
    async fn both_databases_give_their_stars() {
        let address = served(None).await;
        let mongo = Database::Mongo { address };
        assert_eq!(mongo.stars().await, Ok(STARS));
        let address = served(Some("secret")).await;
        let mysql = |password: &str| Database::Mysql {
            address: address.clone(),
            user: "root".to_owned(),
            password: password.to_owned(),
        };
        assert_eq!(mysql("secret").stars().await, Ok(STARS));
        assert_eq!(mysql("guess").stars().await, Err(Failure::Connect));
    }

    #[tokio::test]
    async fn a_database_that_is_away_or_ends_is_a_failure() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mongo = Database::Mongo { address };
        let closes = async { drop(listener.accept().await.unwrap()) };
        let (stars, ()) = tokio::join!(mongo.stars(), closes);
        assert_eq!(stars, Err(Failure::Connect));
        let welcomes = async {
            let mut stream = BufStream::new(listener.accept().await.unwrap().0);
            expect(&mut stream, HELLO).await.unwrap();
            say(&mut stream, WELCOME).await.unwrap();
        };
        let (stars, ()) = tokio::join!(mongo.stars(), welcomes);
        assert_eq!(stars, Err(Failure::Load));
        drop(listener);
        assert_eq!(mongo.stars().await, Err(Failure::Connect));
    }

    #[test]
    fn the_environment_names_the_database() {
        let of = |pairs: &[(&str, &str)]| {
            Database::of(|name| {
                let found = pairs.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.to_string())
            })
        };
        assert_eq!(of(&[]), None);
        for (url, address) in [
            ("mongodb://mongodb:27017/test", "mongodb:27017"),
            ("mongodb://u:p@db/test", "db:27017"),
        ] {
            let address = address.to_owned();
            assert_eq!(
                of(&[("MONGO_DB_URL", url)]),
                Some(Database::Mongo { address })
            );
        }
        let mysql = of(&[
            ("DB_TYPE", "mysql"),
            ("MYSQL_DB_HOST", "mysqldb"),
            ("MYSQL_DB_USER", "root"),
            ("MYSQL_DB_PASSWORD", "password"),
        ]);
        assert_eq!(
            mysql,
            Some(Database::Mysql {
                address: "mysqldb:3306".to_owned(),
                user: "root".to_owned(),
                password: "password".to_owned(),
            })
        );
    }
}
