//! The two text formats of metrics, and which of them a client wants. Pure.
//!
//! The library writes OpenMetrics; [`Format::Text`] converts that to Prometheus's older format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write as _;

use crate::http::accept::{Media, wanted};

/// A text format for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's text format 0.0.4, which everything reads: the default.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

const TEXT: Media<'_> = Media { kind: "text", subtype: "plain", parameter: Some(("version", "0.0.4")) };
const OPEN_METRICS: Media<'_> =
    Media { kind: "application", subtype: "openmetrics-text", parameter: Some(("version", "1.0.0")) };

impl Format {
    /// The format that a client prefers (RFC 9110 12.5.1), given the elements of its `Accept`. Where it prefers neither,
    /// OpenMetrics if it names that, as only readers of it do. Where it accepts neither, text.
    pub(crate) fn wanted(accept: &[&[u8]]) -> Self {
        let Some(open) = wanted(accept.iter().copied(), OPEN_METRICS).filter(|open| open.quality > 0.0) else {
            return Self::Text;
        };
        let text = wanted(accept.iter().copied(), TEXT).map_or(0.0, |text| text.quality);
        if open.quality > text || open.named && open.quality >= text { Self::OpenMetrics } else { Self::Text }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Converts metrics from OpenMetrics to this format.
    pub(crate) fn convert(self, open_metrics: String) -> String {
        match self {
            Self::Text => to_text(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// Text 0.0.4 names a family like its samples (`_total`, `_info`), has fewer types, and has no units, exemplars or last line.
/// The library writes HELP before TYPE, but the family's name depends on the type.
fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((family, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == family) {
                // Only OpenMetrics escapes quotation marks.
                let _ = writeln!(text, "# HELP {family}{suffix} {}", help.replace("\\\"", "\""));
            }
            let _ = writeln!(text, "# TYPE {family}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(without_exemplar(line));
            text.push('\n');
        }
    }
    text
}

/// A sample line without its exemplar, which begins with ` # ` after the labels; label values may contain anything.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: &str) -> Format {
        Format::wanted(&accept.split(',').map(|element| element.trim().as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn the_format_is_what_accept_asks_for() {
        use Format::{OpenMetrics, Text};
        for (accept, format) in [
            ("", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("application/json", Text),
            ("text/plain", Text),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; Version=1.0.0", OpenMetrics),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;version=0.0.1", Text),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Text),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.4", OpenMetrics),
            ("text/plain,application/openmetrics-text", OpenMetrics),
            ("application/*", OpenMetrics),
            ("application/*,text/*", Text),
            // Prometheus 3 and 2.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,*/*;q=0.2",
                Text,
            ),
        ] {
            assert_eq!(asked(accept), format, "{accept}");
        }
    }

    #[test]
    fn a_text_names_families_as_their_samples_and_leaves_out_what_it_does_not_know() {
        let open = "# HELP hi_gaps Gaps, \\\"all\\\" of them.\n# TYPE hi_gaps counter\n# UNIT hi_gaps gaps\n\
            hi_gaps_total{a=\"x # y\\\" # z\"} 3 # {trace=\"1\"} 2 1.5\n# HELP hi_build The version.\n\
            # TYPE hi_build info\nhi_build_info{version=\"1\"} 1\n# HELP hi_x X.\n# TYPE hi_x unknown\nhi_x 1\n\
            # TYPE hi_y histogram\nhi_y_bucket{le=\"+Inf\"} 1\nhi_y_sum 1.0\nhi_y_count 1\n# EOF\n";
        let expected = "# HELP hi_gaps_total Gaps, \"all\" of them.\n# TYPE hi_gaps_total counter\n\
            hi_gaps_total{a=\"x # y\\\" # z\"} 3\n# HELP hi_build_info The version.\n# TYPE hi_build_info gauge\n\
            hi_build_info{version=\"1\"} 1\n# HELP hi_x X.\n# TYPE hi_x untyped\nhi_x 1\n# TYPE hi_y histogram\n\
            hi_y_bucket{le=\"+Inf\"} 1\nhi_y_sum 1.0\nhi_y_count 1\n";
        assert_eq!(Format::Text.convert(open.to_owned()), expected);
        assert_eq!(Format::OpenMetrics.convert(open.to_owned()), open);
    }
}
