//! Numbers for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `3m 20s`.
pub fn span_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{}m {}s", ms / 60_000, ms / 1_000 % 60),
        _ => format!("{}h {}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// `5m ago`, from milliseconds since the Unix epoch.
pub fn since(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    format!("{} ago", span_ms(now.saturating_sub(ms)))
}

/// Milliseconds since the Unix epoch of the moment so long ago; 0 for "ever".
pub fn ms_ago(span: Option<std::time::Duration>) -> u64 {
    let Some(span) = span else { return 0 };
    let start = SystemTime::now().checked_sub(span).unwrap_or(UNIX_EPOCH);
    start.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(span_ms(200_000), "3m 20s");
    }
}
