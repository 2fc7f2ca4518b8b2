//! What `top` shows: which data, which screen, which line. Readings and keys change it.

use crate::{
    model::endpoint::Endpoint,
    report::{
        snapshot::ServiceStatus,
        top::{data::Data, detail::Detail, filter::Filter, look::Look, order::Order, reading::Reading},
    },
};

/// What lies over the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// The keys.
    Help,
    /// Everything that needs a look.
    Notes,
}

/// A service that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Which.
    pub endpoint: Endpoint,
    /// Its limits and connections, or why they could not be read; none: not read yet.
    pub detail: Option<Result<Detail, String>>,
}

/// All that a frame is made of.
#[derive(Clone, Debug)]
pub struct Top {
    /// How it looks.
    pub look: Look,
    /// What services are sorted by.
    pub order: Order,
    /// Which services are shown.
    pub filter: Filter,
    /// What lies over the screen.
    pub overlay: Option<Overlay>,
    /// The service that was opened.
    pub opened: Option<Opened>,
    /// How many lines of an opened service or an overlay are above the screen.
    pub scroll: usize,
    /// How many lines the last frame had room for: what a page is.
    pub page: usize,
    live: Data,
    frozen: Option<Data>,
    selected: Option<Endpoint>,
}

impl Top {
    /// Shows these data.
    pub fn new(look: Look, data: Data) -> Self {
        Self {
            look,
            order: Order::default(),
            filter: Filter::default(),
            overlay: None,
            opened: None,
            scroll: 0,
            page: 1,
            live: data,
            frozen: None,
            selected: None,
        }
    }

    /// Takes in a reading; returns whether anything that is shown has changed.
    pub fn update(&mut self, reading: Reading) -> bool {
        self.live.update(reading);
        !self.is_paused()
    }

    /// Takes in what was read of the opened service; returns whether anything that is shown has changed.
    pub fn show_detail(&mut self, endpoint: Endpoint, detail: Result<Detail, String>) -> bool {
        let paused = self.is_paused();
        match &mut self.opened {
            Some(opened) if opened.endpoint == endpoint && !(paused && opened.detail.is_some()) => {
                opened.detail = Some(detail);
                true
            }
            _ => false,
        }
    }

    /// The data to show.
    pub fn data(&self) -> &Data {
        self.frozen.as_ref().unwrap_or(&self.live)
    }

    /// Whether what is shown stands still.
    pub fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Lets what is shown stand still, or go on.
    pub fn pause(&mut self) {
        self.frozen = if self.frozen.is_some() { None } else { Some(self.live.clone()) };
    }

    /// Whether the list of services is what keys are for.
    pub const fn is_list(&self) -> bool {
        self.opened.is_none() && self.overlay.is_none()
    }

    /// The services to show, in order.
    pub fn services(&self) -> Vec<&ServiceStatus> {
        let all = self.data().snapshot.services.iter();
        let mut shown: Vec<_> = all.filter(|service| self.filter.wants(service)).collect();
        self.order.sort(&mut shown);
        shown
    }

    /// The opened service, if it is still there.
    pub fn opened_service(&self) -> Option<&ServiceStatus> {
        let endpoint = self.opened.as_ref()?.endpoint;
        self.data().snapshot.services.iter().find(|service| service.endpoint == endpoint)
    }

    /// The place of the selected service among `shown`; the first one's if it is not among them.
    pub fn selected(&self, shown: &[&ServiceStatus]) -> usize {
        let place = |endpoint| shown.iter().position(|service| service.endpoint == endpoint);
        self.selected.and_then(place).unwrap_or(0)
    }

    /// The selected service.
    pub fn selected_endpoint(&self) -> Option<Endpoint> {
        let shown = self.services();
        shown.get(self.selected(&shown)).map(|service| service.endpoint)
    }

    /// Moves the selection, or scrolls, by so many lines.
    pub fn go(&mut self, lines: isize) {
        if !self.is_list() {
            // Drawing knows where the end is.
            self.scroll = self.scroll.saturating_add_signed(lines);
            return;
        }
        let shown = self.services();
        let last = shown.len().saturating_sub(1);
        let place = self.selected(&shown).saturating_add_signed(lines).min(last);
        self.selected = shown.get(place).map(|service| service.endpoint);
    }
}
