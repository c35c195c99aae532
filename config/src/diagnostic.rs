//! Mistakes in a configuration, shown with their place, reason and remedy.

use std::fmt;

use crate::reader::{Fault, Span};

/// All the mistakes found in one configuration, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The name of the file, or whatever else the text came from.
    pub origin: String,
    /// The mistakes; at most [`ConfigErrors::LIMIT`].
    pub errors: Vec<ConfigError>,
    /// How many more there were.
    pub omitted: usize,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, such as "listener `front`: `port`".
    pub thing: String,
    /// Why it is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
    /// Where it is; `None` when the file as a whole is at fault.
    pub place: Option<Place>,
}

/// A place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line itself, without its end; may be shown cut around the column when it is long.
    pub text: String,
    /// How many characters of the line are meant, at least 1.
    pub width: usize,
}

/// Longest part of a line that is shown, in characters.
const SHOWN_CHARS: usize = 100;

impl ConfigErrors {
    /// How many mistakes are told in full.
    pub const LIMIT: usize = 50;

    pub(crate) fn at_places(origin: &str, text: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| (fault.span.start, fault.span.end));
        let omitted = faults.len().saturating_sub(Self::LIMIT);
        let errors = faults
            .into_iter()
            .take(Self::LIMIT)
            .map(|fault| ConfigError {
                place: Some(Place::of(text, &fault.span)),
                thing: fault.thing,
                reason: fault.reason,
                remedy: fault.remedy,
            });
        Self {
            origin: origin.to_owned(),
            errors: errors.collect(),
            omitted,
        }
    }

    pub(crate) fn whole_file(origin: &str, reason: String, remedy: &str) -> Self {
        let error = ConfigError {
            thing: format!("configuration {origin}"),
            reason,
            remedy: remedy.to_owned(),
            place: None,
        };
        Self {
            origin: origin.to_owned(),
            errors: vec![error],
            omitted: 0,
        }
    }
}

impl Place {
    /// The place of a span of bytes; of a span over several lines, its part on the first.
    fn of(text: &str, span: &Span) -> Self {
        let start = floor_char_boundary(text, span.start);
        let end = floor_char_boundary(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            width: text[start..end.clamp(start, line_end)]
                .trim_end()
                .chars()
                .count()
                .max(1),
        }
    }

    /// The line and the carets under it, cut around the column when the line is long.
    fn excerpt(&self) -> (String, String) {
        let before = self.column - 1;
        let skipped = before.saturating_sub(SHOWN_CHARS / 2);
        let mut line: String = self
            .text
            .chars()
            .skip(skipped)
            .take(SHOWN_CHARS)
            .map(shown)
            .collect();
        let carets = self
            .width
            .min(SHOWN_CHARS.saturating_sub(before - skipped))
            .max(1);
        let mut indent = before - skipped;
        if skipped > 0 {
            line.insert_str(0, "...");
            indent += 3;
        }
        if self.text.chars().count() > skipped + SHOWN_CHARS {
            line.push_str("...");
        }
        (
            line,
            format!("{}{}", " ".repeat(indent), "^".repeat(carets)),
        )
    }
}

/// A tab as one space, so that carets line up; nothing that could steer a terminal.
fn shown(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// Text that came from the file, on one line and without anything that could steer a terminal.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { ' ' } else { shown(c) })
        .collect()
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            error.show(&self.origin, f)?;
        }
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\n\n... and {more} more"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigError {
    fn show(&self, origin: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", one_line(&self.thing), one_line(&self.reason))?;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            let (line, carets) = place.excerpt();
            write!(f, "\n{margin}--> {origin}:{}:{}", place.line, place.column)?;
            write!(f, "\n{margin} |\n{number} | {line}\n{margin} | {carets}")?;
        }
        write!(f, "\n  remedy: {}", one_line(&self.remedy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, needle: &str) -> Place {
        let start = text.find(needle).unwrap();
        Place::of(text, &(start..start + needle.len()))
    }

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let place = place("a = 1\r\nsøk = true\r\n", "true");
        assert_eq!((place.line, place.column, place.width), (2, 7, 4));
        assert_eq!(place.text, "søk = true");
    }

    #[test]
    fn a_span_over_several_lines_is_marked_on_its_first() {
        let place = place("x = [\n 1,\n]", "[\n 1,\n]");
        assert_eq!((place.line, place.column, place.width), (1, 5, 1));
    }

    #[test]
    fn a_long_line_is_shown_around_the_mistake() {
        let text = format!("x = \"{}\" oops {}", "y".repeat(500), "z".repeat(500));
        let (line, carets) = place(&text, "oops").excerpt();
        assert!(line.len() <= SHOWN_CHARS + 6, "{line}");
        assert_eq!(&line[carets.find('^').unwrap()..carets.len()], "oops");
    }

    #[test]
    fn what_could_steer_a_terminal_is_not_shown() {
        let (line, _) = place("x = \"\u{1b}[31m\ty\"", "y").excerpt();
        assert!(!line.contains(['\u{1b}', '\t']), "{line:?}");
        assert_eq!(one_line("a\u{7}\nb"), "a\u{fffd} b");
    }
}
