//! What is going on, in a line for the service manager. Pure.

use crate::model::{attacks::Attack, mode::Mode, number::counted};

/// No more attacks than these are named.
const MOST: usize = 4;

/// The mode, what is defended, and any attack.
pub fn status_line<'a>(
    mode: Mode,
    interfaces: &[String],
    services: usize,
    attacks: impl Iterator<Item = &'a Attack>,
    is_suspended: bool,
) -> String {
    let attacks: Vec<String> = attacks.map(Attack::describe).collect();
    let state = if is_suspended {
        "challenging is suspended: net.ipv4.tcp_syncookies is 0".to_owned()
    } else {
        match attacks.len() {
            0 => "no attack".to_owned(),
            count if count > MOST => format!("{}, and {} more", attacks[..MOST].join(", "), count - MOST),
            _ => attacks.join(", "),
        }
    };
    let services = counted(services as u64, "service");
    format!("mode {mode} on {}: {services}; {state}", interfaces.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attacks_are_named_and_counted() {
        let line = |attacks: usize, is_suspended| {
            let attacks = vec![Attack::default(); attacks];
            status_line(Mode::Auto, &["eth0".into(), "eth1".into()], 2, attacks.iter(), is_suspended)
        };
        assert_eq!(line(0, false), "mode auto on eth0, eth1: 2 services; no attack");
        assert!(
            line(1, false).ends_with("2 services; SYN flood on port 0 () (level pass)"),
            "{}",
            line(1, false)
        );
        assert!(line(7, false).ends_with("(level pass), and 3 more"), "{}", line(7, false));
        assert!(line(1, true).ends_with("suspended: net.ipv4.tcp_syncookies is 0"));
    }
}
