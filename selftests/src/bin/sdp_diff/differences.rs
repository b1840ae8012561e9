// SPDX-License-Identifier: GPL-2.0

//! The list of what may differ: the literals of the terms in `Documentation/differences.rst`.

use std::cell::Cell;

/// Each is the first words of the names of probes.
pub(crate) struct Differences(Vec<(&'static str, Cell<bool>)>);

const TEXT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../Documentation/differences.rst"
));

impl Differences {
    /// Reads the list: of a line that begins with a literal, all literals.
    pub(crate) fn read() -> Self {
        let terms = TEXT.lines().filter(|line| line.starts_with("``"));
        let literals = terms.flat_map(|line| line.split("``").skip(1).step_by(2));
        Self(literals.map(|text| (text, Cell::new(false))).collect())
    }

    /// Whether the probe `name` may differ.
    pub(crate) fn has(&self, name: &str) -> bool {
        let mut found = false;
        for (entry, used) in &self.0 {
            let rest = name.strip_prefix(entry);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) {
                used.set(true);
                found = true;
            }
        }
        found
    }

    /// The entries by which nothing differs.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        let unused = self.0.iter().filter(|(_, used)| !used.get());
        unused.map(|(entry, _)| *entry).collect()
    }
}
