// SPDX-License-Identifier: GPL-2.0

//! Amounts of memory and of time, as the command line has them.

use std::str::FromStr;
use std::time::Duration;

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many per cent of something.
    Percent(f64),
}

impl Amount {
    /// Returns the bytes of it, where `whole` is 100 per cent.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (whole as f64 * percent / 100.0) as u64,
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_suffix('%') {
            Some(number) => number
                .parse()
                .ok()
                .filter(|percent| (0.0..=1000.0).contains(percent))
                .map(Self::Percent)
                .ok_or_else(|| "give a number of per cent from 0 to 1000, like 5%".into()),
            None => parse_bytes(text).map(Self::Bytes),
        }
    }
}

/// Parses a number of bytes, like 64M.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => Some(0),
        "K" | "KiB" | "k" => Some(10),
        "M" | "MiB" => Some(20),
        "G" | "GiB" => Some(30),
        "T" | "TiB" => Some(40),
        _ => None,
    };

    shift
        .and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift))
        .ok_or_else(|| "give a number of bytes, like 4096, 64M or 2G".into())
}

/// Parses a time, like 10ms. A number alone is in milliseconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "us" => Some(1),
        "" | "ms" => Some(1_000),
        "s" => Some(1_000_000),
        _ => None,
    };

    unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit))
        .filter(|micros| (1..=86_400_000_000).contains(micros))
        .map(Duration::from_micros)
        .ok_or_else(|| "give a time above 0 and up to a day, like 500us, 20ms or 2s".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!("64M".parse(), Ok(Amount::Bytes(64 << 20)));
        assert_eq!("0".parse(), Ok(Amount::Bytes(0)));
        assert_eq!("7.5%".parse(), Ok(Amount::Percent(7.5)));
        assert_eq!(Amount::Percent(7.5).of(1000), 75);
        assert_eq!(Amount::Bytes(7).of(1000), 7);
        for wrong in ["", "M", "-1", "1.5G", "1X", "NaN%", "-1%", "%", "99999999T"] {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("20"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_time("500us"), Ok(Duration::from_micros(500)));
        for wrong in ["", "0", "0s", "-1", "1h", "18446744073709551616", "ms"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
