//! The controllers that a broker has learnt of, kept on disk: those that it is started with may be gone by then.
//!
//! One HOST:PORT a line. The file is a hint: what it says wrongly costs a vain attempt, as each controller proves that it belongs
//! to the cluster. So damage is passed over.

use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "controllers";
const BYTES_MAX: usize = 16 * 1024;

/// Nothing where there is no file, or none that can be read.
pub(super) fn load_controllers(data: &Path) -> Vec<String> {
    let text = fs::read_to_string(data.join(FILE)).unwrap_or_default();
    let lines = text.lines().filter(|_| text.len() <= BYTES_MAX);
    lines
        .filter(|line| line.contains(':'))
        .map(str::to_owned)
        .collect()
}

/// Replaces the file as one step. A crash may lose it.
pub(super) fn store_controllers(data: &Path, controllers: &[String]) -> io::Result<()> {
    let temporary = data.join("controllers.tmp");
    fs::write(&temporary, controllers.join("\n") + "\n")?;
    fs::rename(&temporary, data.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_again_and_damage_is_passed_over() {
        let data =
            std::env::temp_dir().join(format!("millrace-controllers-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        assert!(load_controllers(&data).is_empty());
        let known = ["a:1".to_owned(), "[::1]:2".to_owned()];
        store_controllers(&data, &known).unwrap();
        assert_eq!(load_controllers(&data), known);
        fs::write(data.join(FILE), "garbage\na:1\n").unwrap();
        assert_eq!(load_controllers(&data), ["a:1"]);
        fs::write(data.join(FILE), [0xff, 0xfe]).unwrap();
        assert!(load_controllers(&data).is_empty());
        fs::remove_dir_all(&data).unwrap();
    }
}
