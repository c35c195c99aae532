//! Reading tables key by key: every mistake is noted with its place, and reading goes on.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of the text.
pub(crate) type Span = Range<usize>;

/// A mistake and where it is.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) span: Span,
    pub(crate) thing: String,
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Report(RefCell<Vec<Fault>>);

impl Report {
    pub(crate) fn add(&self, span: &Span, thing: &str, reason: String, remedy: String) {
        let thing = thing.to_owned();
        self.0.borrow_mut().push(Fault {
            span: span.clone(),
            thing,
            reason,
            remedy,
        });
    }

    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.0.into_inner()
    }
}

/// A value and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// Why a value was not accepted.
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// What can be read from one TOML value.
pub(crate) trait Value: Sized {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal>;
}

/// The refusal of a value of another type. `wanted` is a noun phrase with an example.
pub(crate) fn wrong_type(wanted: &str, value: &DeValue<'_>) -> Refusal {
    let (article, found) = match value.type_str() {
        found @ ("array" | "integer") => ("an", found),
        found => ("a", found),
    };
    Refusal {
        reason: format!("{article} {found} cannot stand here"),
        remedy: format!("write {wanted}"),
    }
}

impl Value for String {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong_type("a string, in quotes", value))
    }
}

impl Value for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        value
            .as_bool()
            .ok_or_else(|| wrong_type("true or false, without quotes", value))
    }
}

impl Value for i64 {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let wanted = "a whole number, without quotes";
        let integer = value
            .as_integer()
            .ok_or_else(|| wrong_type(wanted, value))?;
        Self::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| Refusal {
            reason: format!("{} does not fit in 64 bits", integer.as_str()),
            remedy: "write a smaller number".into(),
        })
    }
}

impl Value for crate::ByteSize {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let remedy = crate::ParseSizeError::REMEDY;
        if let Some(text) = value.as_str() {
            return text
                .parse()
                .map_err(|error: crate::ParseSizeError| Refusal {
                    reason: error.reason,
                    remedy: remedy.into(),
                });
        }
        if !value.is_integer() {
            return Err(wrong_type(
                "a size, such as \"64 MiB\", or a number of bytes",
                value,
            ));
        }
        let bytes = i64::read(value)?;
        u64::try_from(bytes)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| Refusal {
                reason: format!("{bytes} is negative, and a size cannot be"),
                remedy: remedy.into(),
            })
    }
}

macro_rules! read_names {
    ($($name:ty),+) => {$(
        impl Value for $name {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                String::read(value)?.parse().map_err(|error: crate::ParseNameError| Refusal {
                    reason: error.reason,
                    remedy: error.remedy,
                })
            }
        }
    )+};
}
read_names!(crate::Nqn, crate::PciSlot, crate::Uuid);

/// One table, read key by key. [`Section::finish`] then complains about the keys nobody asked for.
pub(crate) struct Section<'a> {
    table: &'a DeTable<'a>,
    /// Where the table begins.
    pub(crate) span: Span,
    /// What messages call it.
    pub(crate) name: String,
    asked: Vec<&'static str>,
    report: &'a Report,
}

impl<'a> Section<'a> {
    pub(crate) fn new(
        table: &'a DeTable<'a>,
        span: Span,
        name: impl Into<String>,
        report: &'a Report,
    ) -> Self {
        Self {
            table,
            span,
            name: name.into(),
            asked: Vec::new(),
            report,
        }
    }

    /// Notes a mistake in the value of `key`.
    pub(crate) fn fault(
        &self,
        span: &Span,
        key: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let thing = match self.name.as_str() {
            "" => format!("`{key}`"),
            name => format!("{name}: `{key}`"),
        };
        self.report.add(span, &thing, reason.into(), remedy.into());
    }

    fn raw(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    fn accept<T>(&self, key: &str, span: Span, read: Result<T, Refusal>) -> Option<Found<T>> {
        match read {
            Ok(value) => Some(Found { value, span }),
            Err(refusal) => {
                self.fault(&span, key, refusal.reason, refusal.remedy);
                None
            }
        }
    }

    /// The value of `key`; `None` when it is absent or was refused.
    pub(crate) fn optional<T: Value>(&mut self, key: &'static str) -> Option<Found<T>> {
        let raw = self.raw(key)?;
        self.accept(key, raw.span(), T::read(raw.get_ref()))
    }

    /// The value of `key`, whose absence is a mistake. `example` is a line to write.
    pub(crate) fn required<T: Value>(
        &mut self,
        key: &'static str,
        example: &str,
    ) -> Option<Found<T>> {
        self.complain_if_absent(key, example);
        self.optional(key)
    }

    pub(crate) fn complain_if_absent(&self, key: &str, example: &str) {
        if !self.table.contains_key(key) {
            self.fault(
                &self.span,
                key,
                "the key is missing",
                format!("add a line such as {example}"),
            );
        }
    }

    /// Notes that an array of tables has no element, unless something else under that name has been
    /// refused already.
    pub(crate) fn complain_if_empty(&self, key: &str, reason: &str, remedy: &str) {
        let is_empty = |value: &DeValue<'_>| value.as_array().is_some_and(|array| array.is_empty());
        match self.table.get(key) {
            None => self.fault(&self.span, key, reason, remedy),
            Some(value) if is_empty(value.get_ref()) => {
                self.fault(&value.span(), key, reason, remedy);
            }
            Some(_) => {}
        }
    }

    /// A whole number within `range`; `what` says what it counts.
    pub(crate) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        what: &str,
    ) -> Option<Found<u32>> {
        let found = self.optional::<i64>(key)?;
        let value = self.in_range(key, &found, range, what)?;
        Some(Found {
            value,
            span: found.span,
        })
    }

    pub(crate) fn in_range(
        &self,
        key: &str,
        found: &Found<i64>,
        range: RangeInclusive<u32>,
        what: &str,
    ) -> Option<u32> {
        let value = u32::try_from(found.value)
            .ok()
            .filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) = range.into_inner();
            self.fault(
                &found.span,
                key,
                format!("{} is not {what}", found.value),
                format!("write a number from {least} to {most}"),
            );
        }
        value
    }

    /// One word out of a few.
    pub(crate) fn keyword<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<Found<T>> {
        let found = self.optional::<String>(key)?;
        let read = match words.iter().find(|(word, _)| *word == found.value) {
            Some((_, value)) => Ok(*value),
            None => {
                let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Err(Refusal {
                    reason: format!("`{}` is unknown here", found.value),
                    remedy: choose_from(&found.value, &names, "\""),
                })
            }
        };
        self.accept(key, found.span, read)
    }

    /// A list of values; those refused are left out. `None` when it is absent or not a list.
    pub(crate) fn list<T: Value>(&mut self, key: &'static str) -> Option<Found<Vec<Found<T>>>> {
        let raw = self.raw(key)?;
        let wanted = "a list, in square brackets";
        let array = raw
            .get_ref()
            .as_array()
            .ok_or_else(|| wrong_type(wanted, raw.get_ref()));
        let array = self.accept(key, raw.span(), array)?;
        Some(Found {
            value: self.items(key, array.value),
            span: array.span,
        })
    }

    fn items<T: Value>(&self, key: &str, array: &[Spanned<DeValue<'_>>]) -> Vec<Found<T>> {
        array
            .iter()
            .filter_map(|item| self.accept(key, item.span(), T::read(item.get_ref())))
            .collect()
    }

    /// One value, or a list of them; those refused are left out. `None` when it is absent, or all of it
    /// was refused.
    pub(crate) fn one_or_list<T: Value>(
        &mut self,
        key: &'static str,
    ) -> Option<Found<Vec<Found<T>>>> {
        let raw = self.raw(key)?;
        let span = raw.span();
        let value = match raw.get_ref().as_array() {
            Some(array) => {
                let items = self.items(key, array);
                // What is left of a list with a mistake in each item is not an empty list.
                if items.is_empty() && !array.is_empty() {
                    return None;
                }
                items
            }
            None => vec![self.accept(key, span.clone(), T::read(raw.get_ref()))?],
        };
        Some(Found { value, span })
    }

    /// A table under `key`.
    pub(crate) fn section(&mut self, key: &'static str, example: &str) -> Option<Section<'a>> {
        let raw = self.raw(key)?;
        let name = match self.name.as_str() {
            "" => key.to_owned(),
            name => format!("{name}: {key}"),
        };
        let table = raw
            .get_ref()
            .as_table()
            .ok_or_else(|| wrong_type(example, raw.get_ref()));
        let table = self.accept(key, raw.span(), table)?;
        Some(Section::new(table.value, table.span, name, self.report))
    }

    /// The tables of an array of tables, `[[key]]`; none when it is absent.
    pub(crate) fn sections(&mut self, key: &'static str, header: &str) -> Vec<Section<'a>> {
        let Some(raw) = self.raw(key) else {
            return Vec::new();
        };
        let wanted = format!("the header {header}, in double brackets");
        let array = raw
            .get_ref()
            .as_array()
            .ok_or_else(|| wrong_type(&wanted, raw.get_ref()));
        let Some(array) = self.accept(key, raw.span(), array) else {
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in array.value.iter().enumerate() {
            let name = match self.name.as_str() {
                "" => format!("{key} {}", index + 1),
                name => format!("{name}: {key} {}", index + 1),
            };
            let table = item
                .get_ref()
                .as_table()
                .ok_or_else(|| wrong_type(&wanted, item.get_ref()));
            if let Some(table) = self.accept(key, item.span(), table) {
                sections.push(Section::new(table.value, table.span, name, self.report));
            }
        }
        sections
    }

    /// Complains about every key that was not asked for.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.asked.contains(&name) {
                let remedy = choose_from(name, &self.asked, "`");
                self.fault(&key.span(), name, "there is no such key here", remedy);
            }
        }
    }
}

/// "did you mean ...?" when one of `words` is near, and all of them in any case.
pub(crate) fn choose_from(text: &str, words: &[&str], quote: &str) -> String {
    let all: Vec<_> = words
        .iter()
        .map(|word| format!("{quote}{word}{quote}"))
        .collect();
    let all = match words.len() {
        0 => return "remove it".into(),
        1 => format!("only {} is known", all.join("")),
        _ => format!("known are {}", all.join(", ")),
    };
    let limit = text.chars().count().div_ceil(3).min(3);
    let nearest = words.iter().map(|word| (distance(text, word), word)).min();
    match nearest {
        Some((near, word)) if near <= limit => {
            format!("did you mean {quote}{word}{quote}? ({all})")
        }
        _ => all,
    }
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut least = (last[j] + usize::from(a[i] != b[j]))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before_last[j - 1] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("", "abc", 3)]
    #[case("port", "port", 0)]
    #[case("prot", "port", 1)]
    #[case("prots", "port", 2)]
    #[case("adress", "address", 1)]
    fn the_distance_of_words_counts_slips_of_the_pen(
        #[case] a: &str,
        #[case] b: &str,
        #[case] expected: usize,
    ) {
        assert_eq!(distance(a, b), expected);
    }

    #[test]
    fn only_a_near_word_is_proposed() {
        assert!(
            choose_from("adress", &["id", "address"], "`").starts_with("did you mean `address`")
        );
        assert!(choose_from("colour", &["id", "address"], "`").starts_with("known are"));
    }
}
