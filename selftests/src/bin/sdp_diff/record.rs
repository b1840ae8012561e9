// SPDX-License-Identifier: GPL-2.0

//! What was found out of one family.

use sdp_selftests::errno::Result;
use std::fmt::Debug;

/// Each probe's name, and what it gave, in the order of the probes.
#[derive(Default)]
pub(crate) struct Record(Vec<(String, String)>);

impl Record {
    /// Notes what the probe `name`, words between spaces, gave.
    pub(crate) fn note(&mut self, name: String, got: impl Debug) {
        self.0.push((name, format!("{got:?}")));
    }

    /// It as text, a line for each probe.
    pub(crate) fn to_text(&self) -> String {
        let lines = self.0.iter().map(|(name, got)| format!("{name}\t{got}\n"));
        lines.collect()
    }

    /// What [`Self::to_text`] gave.
    pub(crate) fn from_text(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        Self(lines.map(|(name, got)| (name.into(), got.into())).collect())
    }

    /// How many probes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The probes that `other` gives another result of, and both results. One that only one of them
    /// made is a difference too.
    pub(crate) fn compare<'a>(&'a self, other: &'a Self) -> Vec<(String, [&'a str; 2])> {
        const NONE: &str = "no such probe";
        let numbered = |record: &'a Self| {
            let mut found = std::collections::BTreeMap::<&str, Vec<&str>>::new();
            for (name, got) in &record.0 {
                found.entry(name).or_default().push(got);
            }
            found
        };
        let [ours, theirs] = [self, other].map(numbered);
        let mut names: Vec<_> = ours.keys().chain(theirs.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        let mut differ = Vec::new();
        for name in names {
            let [ours, theirs] = [&ours, &theirs].map(|of| of.get(name).map_or(&[][..], |got| got));
            for at in 0..ours.len().max(theirs.len()) {
                let [a, b] = [ours, theirs].map(|of| of.get(at).copied().unwrap_or(NONE));
                if a != b {
                    differ.push((name.to_string(), [a, b]));
                }
            }
        }
        differ
    }
}

/// Bytes, printed in hexadecimal.
#[derive(PartialEq, Eq)]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[")?;
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "]")
    }
}

/// Success without its value.
pub(crate) fn done<T>(result: Result<T>) -> Result<()> {
    result.map(drop)
}
