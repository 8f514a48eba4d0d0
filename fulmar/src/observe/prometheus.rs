//! The text format of Prometheus, version 0.0.4: [`page`].
//!
//! Names are `fulmar_<protocol>_<what>_<unit>`, counters end in `_total`, labels have values out of fixed sets. It does
//! *not* keep anything between two pages.

use std::fmt::Write;

use super::Snapshot;
use crate::driver::Stats;

/// Everything in `snapshot`, as one page.
pub(super) fn page(snapshot: &Snapshot) -> String {
    let mut page = Page(String::new());
    page.family("fulmar_build_info", "The version that runs.", true);
    page.sample(
        "fulmar_build_info",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    let protocol = snapshot.protocol;
    for (name, help, value) in of_socket(&snapshot.socket) {
        let name = format!("fulmar_{protocol}_socket_{name}_total");
        page.family(&name, help, false);
        page.sample(&name, &[], value);
    }
    let mut last = None;
    for figure in &snapshot.figures {
        let end = if figure.gauge { "" } else { "_total" };
        let name = format!("fulmar_{protocol}_{}{end}", figure.name);
        if last != Some(figure.name) {
            page.family(&name, figure.help, figure.gauge);
        }
        last = Some(figure.name);
        page.sample(&name, figure.label.as_slice(), figure.value);
    }
    page.0
}

fn of_socket(stats: &Stats) -> [(&'static str, &'static str, u64); 14] {
    [
        (
            "received_datagrams",
            "Datagrams received.",
            stats.datagrams_in,
        ),
        ("received_bytes", "UDP payload received.", stats.bytes_in),
        (
            "received_batches",
            "Merged batches received.",
            stats.batches_in,
        ),
        ("sent_datagrams", "Datagrams sent.", stats.datagrams_out),
        ("sent_bytes", "UDP payload sent.", stats.bytes_out),
        (
            "sent_batches",
            "Send calls that succeeded.",
            stats.batches_out,
        ),
        (
            "blocked",
            "Sends that waited for room in the socket or below it.",
            stats.blocked,
        ),
        (
            "oversized_datagrams",
            "Datagrams larger than the interface takes.",
            stats.too_big,
        ),
        (
            "unreachable",
            "Sends and receives answered with unreachable or refused.",
            stats.unreachable,
        ),
        (
            "send_errors",
            "Sends that failed in another way.",
            stats.send_errors,
        ),
        (
            "receive_errors",
            "Receives that failed in another way.",
            stats.recv_errors,
        ),
        ("turns", "Turns of the driver's loop.", stats.turns),
        ("sleeps", "Turns that ended in sleep.", stats.sleeps),
        (
            "stalls",
            "Times the application was slower than its event channel is deep.",
            stats.stalls,
        ),
    ]
}

/// A page in the making.
struct Page(String);

impl Page {
    /// Begins a family; its samples follow.
    fn family(&mut self, name: &str, help: &str, gauge: bool) {
        let kind = if gauge { "gauge" } else { "counter" };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use fulmar_proto::Endpoint;
    use fulmar_proto::engine::Figure;
    use fulmar_proto::hpudp;
    use proptest::prelude::*;

    use super::*;

    /// Every figure of a real endpoint makes a page that keeps to the format: families are declared once and before
    /// their samples, names are legal, no sample comes twice.
    #[test]
    fn a_page_keeps_to_the_format() {
        let endpoint = hpudp::Endpoint::new(hpudp::Config::default(), [7; 32]);
        let snapshot = Snapshot {
            protocol: "hpudp",
            figures: endpoint.figures(),
            ..Snapshot::default()
        };
        let page = page(&snapshot);
        let (mut declared, mut samples, mut current) = (BTreeSet::new(), BTreeSet::new(), None);
        for line in page.lines() {
            let legal = |name: &str| {
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(legal(name) && help.ends_with('.'), "{line}");
                assert!(declared.insert(name), "{name} is declared twice");
                current = Some(name);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(current, Some(name));
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(current, sample.split('{').next(), "{line}");
                assert!(value.parse::<u64>().is_ok(), "{line}");
                assert!(samples.insert(sample), "{sample} comes twice");
            }
        }
        for wanted in [
            "fulmar_hpudp_sessions{state=\"receiving\"}",
            "fulmar_hpudp_rejects_total{reason=\"busy\"}",
            "fulmar_hpudp_unproved_bytes_total",
            "fulmar_hpudp_socket_received_bytes_total",
            "fulmar_hpudp_malformed_total",
        ] {
            assert!(samples.contains(wanted), "{wanted} is not in\n{page}");
        }
    }

    #[test]
    fn figures_of_one_name_are_one_family() {
        let figure = |value, label| Figure {
            name: "things",
            help: "Some.",
            gauge: true,
            label: Some(("kind", label)),
            value,
        };
        let snapshot = Snapshot {
            protocol: "x",
            figures: vec![figure(1, "a"), figure(2, "b\"\\\n")],
            ..Snapshot::default()
        };
        let page = page(&snapshot);
        let end = "# HELP fulmar_x_things Some.\n# TYPE fulmar_x_things gauge\n\
                   fulmar_x_things{kind=\"a\"} 1\nfulmar_x_things{kind=\"b\\\"\\\\\\n\"} 2\n";
        assert!(page.ends_with(end), "{page}");
    }

    proptest! {
        /// Unescaping gives the value back, and no value ends its quotes or its line.
        #[test]
        fn label_values_are_contained(value in "\\PC{0,20}|[\\\\\"\n]{0,8}") {
            let text = escaped(&value);
            let (mut back, mut chars) = (String::new(), text.chars());
            while let Some(c) = chars.next() {
                prop_assert!(c != '"' && c != '\n');
                back.push(if c == '\\' {
                    match chars.next().unwrap() {
                        'n' => '\n',
                        c => c,
                    }
                } else {
                    c
                });
            }
            prop_assert_eq!(back, value);
        }
    }
}
