use std::collections::BTreeMap;
use std::process::Child;

use serde_json::Value;

/// Traffic that runs in a pod while a test changes the mesh around it.
#[derive(Debug)]
pub struct Load {
    pub(crate) child: Child,
    pub(crate) line: String,
}

/// What the load generator counted.
#[derive(Debug, Clone)]
pub struct Summary {
    pub sent: u64,
    pub ok: u64,
    pub raw: Value,
}

impl Load {
    /// Waits for the load to end by itself.
    ///
    /// # Panics
    /// The load generator failed or printed no summary.
    #[track_caller]
    pub fn finish(self) -> Summary {
        let output = self
            .child
            .wait_with_output()
            .expect("the load generator can be waited for");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Summary::read(&self.line, &text(&output.stdout), &text(&output.stderr))
    }
}

impl Summary {
    /// # Panics
    /// The load generator failed or printed no summary.
    #[track_caller]
    pub fn read(line: &str, text: &str, errors: &str) -> Self {
        let Ok(raw) = serde_json::from_str::<Value>(text) else {
            panic!("`{line}` printed no summary: {text}{errors}")
        };
        let number = |key: &str| {
            raw[key]
                .as_u64()
                .unwrap_or_else(|| panic!("the summary lacks \"{key}\": {raw}"))
        };
        Self {
            sent: number("sent"),
            ok: number("ok"),
            raw,
        }
    }

    /// # Panics
    /// A request failed, or fewer than `at_least` were sent.
    #[track_caller]
    pub fn assert_none_failed(&self, at_least: u64) {
        assert_eq!(self.sent, self.ok, "requests failed: {}", self.raw);
        assert!(
            self.ok >= at_least,
            "only {} requests were sent, {at_least} expected: {}",
            self.ok,
            self.raw
        );
    }

    /// Answers per value of the JSON field that the load generator was asked to count, cut by `key`.
    pub fn counts(&self, key: impl Fn(&str) -> String) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (value, count) in self.raw["by_json"].as_object().into_iter().flatten() {
            *counts.entry(key(value)).or_default() += count.as_u64().unwrap_or(0);
        }
        counts
    }
}
