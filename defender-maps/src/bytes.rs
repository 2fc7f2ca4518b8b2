//! Values as aya transfers them.

use defender_common::abi::Plain;

/// Lets aya transfer a [`Plain`] type.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Bytes<T: Plain>(pub T);

// SAFETY: `Plain` promises that the type is repr(C) without padding and that any bytes are a valid value.
unsafe impl<T: Plain> aya::Pod for Bytes<T> {}
