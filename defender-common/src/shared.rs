//! Memory that several CPUs write: the values of maps.
//!
//! **The rule.** A program never holds a `&T` or `&mut T` to a map value that programs write. Other CPUs, interrupts and the
//! functions it calls write the same bytes, and a reference would promise the compiler that they do not. It holds a
//! [`&Shared<T>`](Shared): a cell, whose fields are copied in ([`Shared::set`]) and out ([`Shared::get`]). [`field!`](crate::field)
//! leads from a value to one of its fields.
//!
//! `get` and `set` are plain loads and stores of integers. Two CPUs that write a field at the same time lose one of the
//! writes; each table says what that costs. Where no update may be lost, [`crate::load::Words`] has atomic operations.
//! Values that only the controller writes (settings, keys, services) are read by `&`.

use core::cell::UnsafeCell;

/// A value that others write at any time. Like [`core::cell::Cell`], with a way to its fields.
#[repr(transparent)]
#[derive(Debug)]
pub struct Shared<T>(UnsafeCell<T>);

impl<T> Shared<T> {
    /// A value of one's own.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// A copy of one's own, for functions that expect a shared value.
    #[inline(always)]
    pub const fn from_mut(value: &mut T) -> &Self {
        let address: *mut T = value;
        // SAFETY: the reference is exclusive and becomes this one.
        unsafe { Self::at(address) }
    }

    /// The value at an address.
    ///
    /// # Safety
    /// There is a `T` for as long as the reference lives, and nobody has a `&T` or `&mut T` to it.
    #[inline(always)]
    pub const unsafe fn at<'a>(address: *mut T) -> &'a Self {
        // SAFETY: as the caller says; both types have the same layout.
        unsafe { &*address.cast() }
    }

    /// Its address.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }

    /// The value as it is now.
    #[inline(always)]
    pub const fn get(&self) -> T
    where
        T: Copy,
    {
        // SAFETY: the address is valid, and nobody has an exclusive reference.
        unsafe { *self.0.get() }
    }

    /// Replaces the value.
    #[inline(always)]
    pub const fn set(&self, value: T)
    where
        T: Copy,
    {
        // SAFETY: as above, and a `Copy` type has nothing to drop.
        unsafe { *self.0.get() = value };
    }

    /// A part of the value.
    ///
    /// # Safety
    /// `part` lies within this value.
    #[doc(hidden)]
    #[inline(always)]
    pub const unsafe fn part<U>(&self, part: *mut U) -> &Shared<U> {
        // SAFETY: the part lives as long as the whole.
        unsafe { Shared::at(part) }
    }
}

impl<T, const N: usize> Shared<[T; N]> {
    /// Its elements.
    #[inline(always)]
    pub const fn each(&self) -> &[Shared<T>; N] {
        // SAFETY: elements and cells of them have the same layout.
        unsafe { &*self.0.get().cast() }
    }
}

/// A field of a [`Shared`] value, or an element of a field: `field!(bucket.entries[3])`.
#[macro_export]
macro_rules! field {
    ($shared:ident . $field:ident) => {{
        let shared: &$crate::shared::Shared<_> = $shared;
        // SAFETY: the address of a field of a value that is there.
        let part = unsafe { &raw mut (*shared.as_ptr()).$field };
        // SAFETY: it lies within the value.
        unsafe { shared.part(part) }
    }};
    ($shared:ident . $field:ident [ $index:expr ]) => {{
        let (shared, index): (&$crate::shared::Shared<_>, usize) = ($shared, $index);
        // SAFETY: the address of an element of a field of a value that is there; the index is checked.
        let part = unsafe { &raw mut (*shared.as_ptr()).$field[index] };
        // SAFETY: it lies within the value.
        unsafe { shared.part(part) }
    }};
}

/// A value whose fields can be read: one's own copy, or a [`Shared`] one.
pub trait Peek<T> {
    /// Its address. Everything there may change at any time.
    fn address(&self) -> *const T;
}

impl<T> Peek<T> for T {
    #[inline(always)]
    fn address(&self) -> *const T {
        self
    }
}

impl<T> Peek<T> for Shared<T> {
    #[inline(always)]
    fn address(&self) -> *const T {
        self.as_ptr()
    }
}

/// A copy of a field of a value that implements [`Peek`].
macro_rules! peek {
    ($value:ident . $field:ident) => {{
        let address = $crate::shared::Peek::address($value);
        // SAFETY: there is a value at that address; its field is copied out.
        unsafe { (*address).$field }
    }};
    ($value:ident . $field:ident [ $index:expr ]) => {{
        let (address, index): (_, usize) = ($crate::shared::Peek::address($value), $index);
        // SAFETY: as above; the index is checked.
        unsafe { (*address).$field[index] }
    }};
}
pub(crate) use peek;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{FlowBucket, Load};

    #[test]
    fn fields_are_where_the_value_is() {
        let mut bucket = FlowBucket::default();
        let shared = Shared::from_mut(&mut bucket);
        let hot = field!(shared.hot[3]);
        field!(hot.tag).set(7);
        field!(shared.cold).each()[3].set(crate::abi::FlowCold { packets: 9, ..Default::default() });
        assert_eq!(field!(hot.tag).get(), 7);
        assert_eq!((bucket.hot[3].tag, bucket.cold[3].packets), (7, 9));
    }

    fn read(load: &impl Peek<Load>) -> u64 {
        peek!(load.queue)
    }

    #[test]
    fn two_hold_the_same_value() {
        let mut load = Load::EMPTY;
        let shared = Shared::from_mut(&mut load);
        let (one, other) = (shared, shared);
        field!(one.queue).set(5);
        assert_eq!(field!(other.queue).get(), 5);
        assert_eq!(read(shared), 5);
        assert_eq!(read(&load), 5);
    }
}
