//! Real programs talk through the defender in mode `always`: web server, servers that speak first, bulk transfers.

mod support;

use anyhow::Result;
use defender_testbed::{client, server::Server, topology::Topology};

use crate::support::{CLIENT_PATIENCE, Counts, start_always};

#[test]
fn a_connection_is_challenged_and_handed_over() -> Result<()> {
    let bed = Topology::new()?;
    for address in [bed.server_v4(80), bed.server_v6(80)] {
        let server = Server::start(&bed.server, address)?;
        let defender = start_always(&bed, &[80])?;
        let before = Counts::of(&defender)?;
        let from = bed.fresh_client(address);
        let stream = client::connect_from(&bed.client, Some(from), address, CLIENT_PATIENCE)?;
        let accepted = server.wait_for(stream.local_addr()?, CLIENT_PATIENCE)?;
        assert!(accepted.info.has_all_options(), "{accepted:?}");
        (&Counts::of(&defender)? - &before).assert_connections(1);
    }
    Ok(())
}
