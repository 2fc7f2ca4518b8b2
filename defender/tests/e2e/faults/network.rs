//! What happens to interfaces and addresses.

use anyhow::Result;
use defender_testbed::topology::{
    CLIENT_INTERFACE, CLIENT_V4, CLIENT_V6, SERVER_INTERFACE, SERVER_V4, SERVER_V6,
};

use crate::{
    faults::scene::{self, Scene},
    harness::{eventually, status},
};

/// Routes and neighbours go with the link.
pub(crate) fn link_down_and_up(scene: &mut Scene<'_>) -> Result<()> {
    let is_up = |scene: &Scene<'_>, wanted: bool| {
        eventually("status says so", || Ok(status(scene.defender())?["interfaces"][0]["up"] == wanted))
    };
    scene.bed.server.ip(&format!("link set {SERVER_INTERFACE} down"))?;
    is_up(scene, false)?;
    scene.bed.server.ip(&format!("link set {SERVER_INTERFACE} up"))?;
    is_up(scene, true)?;
    scene.bed.set_addresses()
}

/// Somebody deletes it, and it comes back with another index.
pub(crate) fn interface_made_again(scene: &mut Scene<'_>) -> Result<()> {
    scene.bed.server.ip(&format!("link delete {SERVER_INTERFACE}"))?;
    eventually("status says so", || {
        let status = status(scene.defender())?;
        Ok(status["interfaces"].as_array().is_none_or(|all| all.iter().all(|it| it["xdp_mode"] != "native")))
    })?;
    let client_end = scene.bed.lay_link_again(&scene::link())?;
    scene.keep(client_end);
    Ok(())
}

pub(crate) fn mtu_changed(scene: &mut Scene<'_>) -> Result<()> {
    for mtu in [1280, 1500] {
        scene.bed.server.ip(&format!("link set {SERVER_INTERFACE} mtu {mtu}"))?;
        scene.connections_live()?;
        scene.clients_get_in()?;
    }
    scene.bed.set_addresses()
}

/// It has another one for a while, and the first again.
pub(crate) fn address_changed(scene: &mut Scene<'_>) -> Result<()> {
    let (v4, v6) = (format!("{SERVER_V4}/30"), format!("{SERVER_V6}/64"));
    let server = &scene.bed.server;
    for address in [&v4, &v6] {
        server.ip(&format!("address del {address} dev {SERVER_INTERFACE}"))?;
    }
    server.ip(&format!("address add 10.203.0.3/28 dev {SERVER_INTERFACE}"))?;
    eventually("it has noticed", || Ok(status(scene.defender())?["services"].as_array().is_some()))?;
    server.ip(&format!("address del 10.203.0.3/28 dev {SERVER_INTERFACE}"))?;
    scene.bed.set_addresses()
}

/// The neighbours learn of it.
pub(crate) fn mac_changed(scene: &mut Scene<'_>) -> Result<()> {
    let mac = "02:00:00:00:00:77";
    scene.bed.server.ip(&format!("link set {SERVER_INTERFACE} address {mac}"))?;
    for address in [SERVER_V4.to_string(), SERVER_V6.to_string()] {
        scene
            .bed
            .client
            .ip(&format!("neighbour replace {address} lladdr {mac} dev {CLIENT_INTERFACE} nud permanent"))?;
    }
    for address in [CLIENT_V4.to_string(), CLIENT_V6.to_string()] {
        scene.bed.server.ip(&format!("route get {address}"))?;
    }
    Ok(())
}
