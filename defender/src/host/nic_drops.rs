//! Packets that a NIC dropped before XDP could see them.

use anyhow::Result;

use super::{ethtool, links};

/// What drivers call such drops in their own statistics (`ethtool -S`).
const BY_DRIVERS: [&str; 9] = [
    // mlx5: the port's buffer was full; a ring was.
    "rx_discards_phy",
    "rx_out_of_buffer",
    // ixgbe, igb and e1000e, ice, bnxt: no descriptor was free.
    "rx_no_dma_resources",
    "rx_no_buffer_count",
    "rx_dropped.nic",
    "rx_total_discard_pkts",
    // ena: the instance was beyond what its host allows.
    "bw_in_allowance_exceeded",
    "pps_allowance_exceeded",
    "conntrack_allowance_exceeded",
];

/// What the kernel calls them, for every driver (`ip -s -s link`).
const BY_KERNEL: &str = "rx_missed_errors";

/// Every counter of such drops that there may be, for documents.
pub fn names() -> impl Iterator<Item = &'static str> {
    [BY_KERNEL].into_iter().chain(BY_DRIVERS)
}

/// The counters of each of these interfaces that its driver has. An interface that is gone has none.
pub fn read(interfaces: &[String]) -> Result<Vec<Vec<(&'static str, u64)>>> {
    let missed = links::missed()?;
    let of = |interface: &String| {
        let by_kernel =
            missed.iter().find(|(name, _)| name == interface).map(|(_, count)| (BY_KERNEL, *count));
        // A driver that cannot be asked has no counters.
        let statistics = ethtool::statistics(interface).unwrap_or_default();
        let by_driver = BY_DRIVERS.into_iter().filter_map(|counter| {
            statistics.iter().find(|(name, _)| name == counter).map(|(_, count)| (counter, *count))
        });
        by_kernel.into_iter().chain(by_driver).collect()
    };
    Ok(interfaces.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_namespace, shell};

    #[test]
    fn drops_are_those_that_ip_shows() {
        in_namespace(|| {
            shell("ip link add v0 type veth peer name v1");
            let names = ["v0".to_owned(), "gone".to_owned()];
            assert_eq!(read(&names).expect("counters"), [vec![("rx_missed_errors", 0)], vec![]]);
            let shown = shell("ip -s -s -j link show v0");
            assert!(shown.contains("\"missed_errors\":0") || shown.contains("\"missed\":0"), "{shown}");
        });
    }

    #[test]
    fn a_driver_s_statistics_are_those_that_ethtool_shows() {
        in_namespace(|| {
            shell(
                "ip link add v0 numrxqueues 3 type veth peer name v1 && ip link set v0 up && ip link set v1 up",
            );
            let ours = ethtool::statistics("v0").expect("statistics");
            let shown = shell("ethtool -S v0");
            let lines: Vec<_> = shown.lines().skip(1).map(|line| line.trim().to_owned()).collect();
            assert!(lines.len() > 4, "{shown}");
            assert_eq!(
                ours.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
                lines.iter().filter_map(|line| Some(line.split_once(':')?.0)).collect::<Vec<_>>()
            );
            let peer = ours.iter().find(|(name, _)| name == "peer_ifindex").expect("veth's").1;
            assert!(lines.contains(&format!("peer_ifindex: {peer}")), "{shown}");
            assert_eq!(ethtool::statistics("lo").expect("none"), []);
            assert_eq!(ethtool::statistics("gone").expect("none"), []);
        });
    }
}
