use prost::Message;

use crate::compile;

/// A resource as it comes over xDS: the first byte says which type, the rest is the message. Whatever it holds is compiled
/// or refused with words.
///
/// # Panics
/// It is refused without a reason.
pub fn xds(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check(message, compile::listener),
        1 => check(message, compile::route_configuration),
        2 => check(message, compile::cluster),
        _ => check(message, compile::cluster_load_assignment),
    }
}

fn check<M: Message + Default, C>(
    bytes: &[u8],
    compile: fn(M) -> Result<C, compile::CompileErrors>,
) {
    let Ok(message) = M::decode(bytes) else {
        return;
    };
    if let Err(errors) = compile(message) {
        assert!(!errors.problems.is_empty(), "refused without a reason");
        assert!(!errors.to_string().is_empty());
    }
}
