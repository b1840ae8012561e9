// SPDX-License-Identifier: GPL-2.0

//! What a peer did wrong, by the number of the rule that it broke.

use core::fmt;

/// A rule of the protocol, as `Documentation/wire.rst` numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A table of the wire format: `A.n`.
    A(u8),
    /// A rule of behaviour: `B-n`.
    B(u8),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::A(n) => write!(f, "A.{n}"),
            Rule::B(n) => write!(f, "B-{n}"),
        }
    }
}

/// The peer broke the protocol: the connection is aborted (`B-73`), or refused when it was being
/// set up (`B-2`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// How it was broken, in a few words.
    pub what: &'static str,
}

impl Violation {
    pub(super) const fn new(rule: Rule, what: &'static str) -> Violation {
        Violation { rule, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_named_as_in_the_documentation() {
        let violation = Violation::new(Rule::B(14), "too much");
        assert_eq!(violation.to_string(), "B-14: too much");
        assert_eq!(Rule::A(6).to_string(), "A.6");
    }
}
