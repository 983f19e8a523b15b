use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use kube::Resource;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event};
use serde::de::DeserializeOwned;

/// Before everything is listed again.
const RELIST_PAUSE: Duration = Duration::from_secs(1);

/// What happens to the objects of a kind, for ever. It begins with a list, and again when the API server has forgotten the
/// version that the watch was at (410). The library knows that answer as an event of the stream; as a status of the
/// response, which a server may give, too, it would ask for the same version over and over.
pub(crate) fn events<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = Result<Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || {
        watcher::watcher(api.clone(), config.clone())
            .default_backoff()
            .boxed()
    };
    stream::unfold((begin(), begin), |(mut events, begin)| async move {
        let event = events.next().await?;
        if event.as_ref().is_err_and(|error| has_code(error, 410)) {
            tokio::time::sleep(RELIST_PAUSE).await;
            events = begin();
        }
        Some((event, (events, begin)))
    })
}

pub(crate) fn has_code(error: &watcher::Error, code: u16) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == code)
}
