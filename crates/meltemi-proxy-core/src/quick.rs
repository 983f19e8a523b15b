//! Maps for look-ups that every request does.

use std::collections::HashMap;

/// A map that hashes quickly, for keys that come from the configuration or from the proxy itself. The standard map is for
/// keys that clients choose: it withstands keys that were made to collide.
pub type QuickMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
