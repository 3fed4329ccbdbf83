//! What an operator reads: rows of cells, each column as wide as its widest; or the same as JSON.

use serde_json::{Map, Value};
use std::fmt::Write;

pub(super) struct Table {
    /// The columns' names, as JSON has them: tables have them in capitals, with spaces.
    head: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Table {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Value; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(super) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = self.head.iter().zip(row);
            let cells = cells.map(|(name, cell)| (name.to_string(), cell.clone()));
            Value::Object(cells.collect::<Map<_, _>>())
        });
        Value::Array(rows.collect())
    }

    pub(super) fn text(&self) -> String {
        let head = self.head.iter();
        let head = head.map(|name| name.to_uppercase().replace('_', " "));
        let mut rows: Vec<Vec<String>> = vec![head.collect()];
        rows.extend(self.rows.iter().map(|row| row.iter().map(shown).collect()));
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn shown(cell: &Value) -> String {
    match cell {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(name, value)| format!("{name}={}", shown(value)));
            entries.collect::<Vec<_>>().join(",")
        }
        Value::Bool(_) | Value::Number(_) => cell.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_says_the_same_in_both_forms() {
        let mut table = Table::new(&["name", "last_beat_ms"]);
        table.row([json!("a-long-name"), json!(17)]);
        table.row([json!("b"), json!(null)]);
        let lines = "NAME         LAST BEAT MS\na-long-name  17\nb            -\n";
        assert_eq!(table.text(), lines);
        let json = json!([{"name": "a-long-name", "last_beat_ms": 17}, {"name": "b", "last_beat_ms": null}]);
        assert_eq!(table.json(), json);
    }

    #[test]
    fn lists_and_settings_fit_a_cell() {
        assert_eq!(shown(&json!([1, 2])), "1,2");
        assert_eq!(shown(&json!({"a": "x", "b": [true]})), "a=x,b=true");
    }
}
