//! How many instructions the verifier may walk for each program: `budget.txt`, which is part of the repository.

/// What the file says.
const BUDGET: &str = include_str!("../budget.txt");

/// The budget of a program; none if the file does not name it.
pub fn verified_instructions(program: &str) -> Option<u32> {
    lines().find(|(name, _)| *name == program).map(|(_, most)| most)
}

/// Names and budgets.
fn lines() -> impl Iterator<Item = (&'static str, u32)> {
    let lines = BUDGET.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (name, most) = line.split_once(' ')?;
        Some((name, most.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_file_counts() {
        let written = BUDGET.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        assert_eq!(written.count(), lines().count());
        assert_eq!(verified_instructions("nothing"), None);
        assert!(lines().all(|(_, most)| most < 1_000_000));
    }
}
