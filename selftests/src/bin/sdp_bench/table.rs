// SPDX-License-Identifier: GPL-2.0

//! The figures, and how they are shown.

use crate::{
    end::Result,
    plan::{
        Line,
        Measure,
        Transport, //
    },
    Options, //
};
use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    fs, //
};

/// What one pair of processes found.
struct Record {
    round: u32,
    line: Line,
    transport: Transport,
    figures: std::result::Result<Vec<f64>, String>,
}

/// All that was found.
pub(crate) struct Results {
    /// What was measured on, by what name.
    setting: Vec<(&'static str, String)>,
    transports: Vec<Transport>,
    /// Why a transport is not there.
    pub(crate) missing: BTreeMap<&'static str, String>,
    records: Vec<Record>,
}

/// The middle one.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = |at: usize| values.get(at).copied();
    let last = values.len().checked_sub(1)?;
    Some((at(last / 2)? + at(last.div_ceil(2))?) / 2.0)
}

/// With three digits that count.
fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or("-".into(), short)
}

/// As JSON has it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            ' '.. => quoted.push(letter),
            _ => quoted.push(' '),
        }
    }
    quoted.push('"');
    quoted
}

impl Results {
    pub(crate) fn new(
        options: &Options,
        transports: &[Transport],
        missing: BTreeMap<&'static str, String>,
    ) -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // What tools/vm/run says of the machine that it made.
        let told = [
            ("device", "RDMA"),
            ("MTU", "MTU"),
            ("kernel", "KERNEL"),
            ("clock", "CLOCK"),
        ];
        let told = told
            .into_iter()
            .filter_map(|(name, variable)| Some((name, env::var(variable).ok()?)));
        let setting = [
            ("Linux", release.trim().to_string()),
            ("rounds", options.rounds.to_string()),
            ("milliseconds", options.milliseconds.to_string()),
        ];
        Self {
            setting: setting.into_iter().chain(told).collect(),
            transports: transports.to_vec(),
            missing,
            records: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        round: u32,
        line: Line,
        transport: Transport,
        figures: Result<Vec<f64>>,
    ) {
        self.records.push(Record {
            round,
            line,
            transport,
            figures: figures.map_err(|e| e.to_string()),
        });
    }

    /// Whether something that `transport` was to do failed.
    pub(crate) fn failed(&self, transport: Transport) -> bool {
        let mut all = self.records.iter();
        all.any(|record| record.transport == transport && record.figures.is_err())
    }

    /// The figure number `at` of `line`, of each round that has one.
    fn rounds(&self, line: Line, transport: Transport, at: usize) -> BTreeMap<u32, f64> {
        let ours = |record: &&Record| record.line == line && record.transport == transport;
        let value = |record: &Record| Some((record.round, *record.figures.as_ref().ok()?.get(at)?));
        self.records.iter().filter(ours).filter_map(value).collect()
    }

    /// How many times as good as SDP it was in each round.
    fn ratios(&self, line: Line, transport: Transport, at: usize, more: bool) -> Vec<f64> {
        let sdp = self.rounds(line, Transport::Sdp, at);
        let ratio = |(round, value): (u32, f64)| {
            let sdp = sdp.get(&round)?;
            Some(if more { value / sdp } else { sdp / value })
        };
        let rounds = self.rounds(line, transport, at);
        rounds.into_iter().filter_map(ratio).collect()
    }

    /// What was found last of `line`, by every transport.
    pub(crate) fn last(&self, line: Line) -> String {
        let round = self.records.last().map_or(0, |record| record.round);
        let mut text = line.to_string();
        for transport in &self.transports {
            let mut all = self.records.iter();
            let found = all.find(|record| {
                (record.round, record.line, record.transport) == (round, line, *transport)
            });
            let shown = match found.map(|record| &record.figures) {
                None => continue,
                Some(Err(why)) => why.clone(),
                Some(Ok(figures)) => short(figures.first().copied().unwrap_or(f64::NAN)),
            };
            write!(text, "  {} {shown}", transport.name()).ok();
        }
        text
    }

    /// The rows of a table: what `cell` says of each measure and transport.
    fn rows(
        &self,
        lines: &[Line],
        cell: impl Fn(Line, Transport, usize, &Measure) -> Option<f64>,
    ) -> String {
        let mut text = String::new();
        for line in lines {
            for (at, measure) in line.measures().iter().enumerate() {
                write!(text, "{:<22} {:>5}", measure.name, measure.unit).ok();
                for transport in &self.transports {
                    let value = cell(*line, *transport, at, measure);
                    write!(text, " {:>8}", or_dash(value)).ok();
                }
                text.push('\n');
            }
        }
        text
    }

    /// Medians, and medians of ratios, for people.
    pub(crate) fn table(&self, lines: &[Line]) -> String {
        let setting = self.setting.iter();
        let setting: Vec<_> = setting
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let mut text = format!("\n{}\n\n", setting.join(", "));
        let head = |title: &str| {
            let mut head = format!("{title:<28}");
            for transport in &self.transports {
                write!(head, " {:>8}", transport.name()).ok();
            }
            head.push('\n');
            head
        };
        text += &head("medians");
        text += &self.rows(lines, |line, transport, at, _| {
            median(self.rounds(line, transport, at).into_values().collect())
        });
        text.push('\n');
        text += &head("times as good as SDP");
        text += &self.rows(lines, |line, transport, at, measure| {
            median(self.ratios(line, transport, at, measure.more))
        });
        for (name, why) in &self.missing {
            writeln!(text, "\n{name} is not available: {why}").ok();
        }
        for record in &self.records {
            if let Err(why) = &record.figures {
                let Record {
                    line, transport, ..
                } = record;
                writeln!(text, "\n{} failed at {line}: {why}", transport.name()).ok();
            }
        }
        text
    }

    /// All of it, for programs.
    pub(crate) fn json(&self, lines: &[Line]) -> String {
        let pair = |name: &str, value: &str| format!("{}: {}", quoted(name), quoted(value));
        let setting = self.setting.iter().map(|(name, value)| pair(name, value));
        let missing = self.missing.iter().map(|(name, why)| pair(name, why));
        let measures = lines.iter().flat_map(|line| {
            let measures = line.measures().into_iter().enumerate();
            measures.map(|(at, measure)| self.json_of(*line, at, &measure))
        });
        let list = |items: Vec<String>, indent: &str| items.join(&format!(",\n{indent}"));
        format!(
            "{{\n  \"setting\": {{\n    {}\n  }},\n  \"missing\": {{{}}},\n  \"measures\": [\n    {}\n  ]\n}}\n",
            list(setting.collect(), "    "),
            list(missing.collect(), "    "),
            list(measures.collect(), "    ")
        )
    }

    fn json_of(&self, line: Line, at: usize, measure: &Measure) -> String {
        let transports = self.transports.iter().filter_map(|transport| {
            let rounds: Vec<_> = self.rounds(line, *transport, at).into_values().collect();
            let ratio = median(self.ratios(line, *transport, at, measure.more));
            let values: Vec<_> = rounds.iter().map(f64::to_string).collect();
            Some(format!(
                "{}: {{\"median\": {}, \"ratio\": {}, \"rounds\": [{}]}}",
                quoted(transport.name()),
                median(rounds)?,
                ratio.map_or("null".into(), |ratio| ratio.to_string()),
                values.join(", ")
            ))
        });
        format!(
            "{{\"line\": {}, \"name\": {}, \"unit\": {}, \"better\": {}, \"transports\": {{\n      {}\n    }}}}",
            quoted(&line.to_string()),
            quoted(measure.name.trim()),
            quoted(measure.unit),
            quoted(if measure.more { "more" } else { "less" }),
            transports.collect::<Vec<_>>().join(",\n      ")
        )
    }
}
