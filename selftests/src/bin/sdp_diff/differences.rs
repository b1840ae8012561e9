// SPDX-License-Identifier: GPL-2.0

//! The list of what may differ: the literals of the terms in `Documentation/differences.rst`.

use std::cell::Cell;

/// Each is the beginning of names of probes, word by word; `*` stands for any one word.
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
        for (pattern, used) in &self.0 {
            let mut words = name.split(' ');
            if pattern
                .split(' ')
                .all(|word| words.next().is_some_and(|of| word == "*" || word == of))
            {
                used.set(true);
                found = true;
            }
        }
        found
    }

    /// What stands in the list and nothing differs by.
    pub(crate) fn unused(&self) -> Vec<&'static str> {
        let unused = self.0.iter().filter(|(_, used)| !used.get());
        unused.map(|(pattern, _)| *pattern).collect()
    }
}
