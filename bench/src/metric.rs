//! What is measured of a test, and how it is written.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// CPU-seconds of both proxies per 1,000 requests, messages or connections.
    CpuPer1000,
    PerSecond,
    /// Latencies in microseconds.
    P50,
    P90,
    P99,
    P999,
    /// CPU-seconds of both proxies per 10^9 bytes.
    CpuPerGb,
    /// 10^6 bytes per second.
    MegabytesPerSecond,
    /// Resident memory per connection, of both proxies, or per service, of one.
    BytesEach,
    /// Resident memory of one proxy, the mean of the two.
    ResidentBytes,
    Milliseconds,
    /// CPU-seconds of one proxy.
    CpuSeconds,
    /// Resident memory of one proxy beyond that in a small mesh.
    GrowthBytes,
    /// CPU per request with two workers over that with one, on the same two CPUs.
    OverOneWorker,
}

const MIB: f64 = 1024.0 * 1024.0;

impl Metric {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::CpuPer1000 => "CPU s per 1000",
            Self::PerSecond => "per second",
            Self::P50 => "p50 us",
            Self::P90 => "p90 us",
            Self::P99 => "p99 us",
            Self::P999 => "p99.9 us",
            Self::CpuPerGb => "CPU s per GB",
            Self::MegabytesPerSecond => "MB/s",
            Self::BytesEach => "KiB each",
            Self::ResidentBytes => "RSS MiB",
            Self::Milliseconds => "ms",
            Self::CpuSeconds => "CPU s",
            Self::GrowthBytes => "MiB more",
            Self::OverOneWorker => "over one worker",
        }
    }

    /// A value, in the unit of the label.
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            Self::CpuPer1000 | Self::CpuPerGb | Self::CpuSeconds | Self::OverOneWorker => {
                format!("{value:.3}")
            }
            Self::PerSecond
            | Self::P50
            | Self::P90
            | Self::P99
            | Self::P999
            | Self::MegabytesPerSecond => {
                format!("{value:.0}")
            }
            Self::BytesEach => format!("{:.1}", value / 1024.0),
            Self::ResidentBytes => format!("{:.1}", value / MIB),
            Self::GrowthBytes => format!("{:.2}", value / MIB),
            Self::Milliseconds => format!("{value:.1}"),
        }
    }

    /// Whether it is a cost, of which less is better and a chart makes sense.
    pub(crate) fn is_cost(self) -> bool {
        !matches!(
            self,
            Self::PerSecond
                | Self::MegabytesPerSecond
                | Self::P90
                | Self::P999
                | Self::GrowthBytes
                | Self::OverOneWorker
        )
    }
}
