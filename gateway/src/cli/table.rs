//! Columns for people.

/// Text without control characters: names come from strangers, and terminals obey.
pub(super) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
    }
    clean
}

fn cell(text: &str) -> String {
    printable(&text.replace('\n', " "))
}

/// Rows under headings, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![headings.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|text| cell(&text))));
    aligned(&lines)
}

/// Names and values, one pair to the line. Empty values are left out.
pub(super) fn fields<const N: usize>(pairs: [(&str, String); N]) -> String {
    let lines: Vec<[String; 2]> = pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| [format!("{name}:"), cell(&value)])
        .collect();
    aligned(&lines)
}

fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, text) in widths.iter_mut().zip(line) {
            *width = text.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// What stands for something absent.
pub(super) fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// The value, or nothing.
pub(super) fn or_empty<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The name of a value that JSON shows as text.
pub(super) fn named(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "b".to_owned()], ["äöü".to_owned(), String::new()]];
        assert_eq!(table(["N", "VALUE"], rows), "N    VALUE\na    b\näöü\n");
    }

    #[test]
    fn a_name_cannot_command_the_terminal() {
        let rows = [["evil\u{1b}[2Jname\nnext".to_owned()]];
        assert_eq!(table(["NAME"], rows), "NAME\nevil\\u{1b}[2Jname next\n");
    }
}
