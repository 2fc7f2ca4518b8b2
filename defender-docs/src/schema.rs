//! What the serialized structs look like, read from their source: names, types and doc comments of their fields.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use syn::{Attribute, Expr, Field, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type, Variant};

use crate::workspace;

/// Where the structs are.
const CRATES: [&str; 2] = ["defender/src", "defender-common/src"];

/// A field as programs see it.
pub(crate) struct Described {
    /// Its path in the object, as `services[].port`.
    pub(crate) path: String,
    /// Its JSON type.
    pub(crate) kind: String,
    /// Its doc comment.
    pub(crate) meaning: String,
}

/// Every item of the sources, with the stem of its file.
pub(crate) struct Sources(Vec<Found>);

/// An item and the stem of its file.
type Found = (String, Item);

impl Sources {
    /// Reads them.
    pub(crate) fn read() -> Result<Self> {
        let mut items = Vec::new();
        for directory in CRATES {
            read(&workspace().join(directory), &mut items)?;
        }
        Ok(Self(items))
    }

    /// The fields of struct `name` in the file with this stem, and of what is in them.
    pub(crate) fn fields(&self, file: &str, name: &str) -> Result<Vec<Described>> {
        let mut described = Vec::new();
        self.struct_fields(self.find(file, name)?, "", &mut described)?;
        Ok(described)
    }

    /// The variants of an enum, looked up as [`Self::fields`] does: their names as serde writes them, and their doc comments.
    pub(crate) fn variants(&self, file: &str, name: &str) -> Result<Vec<(String, String)>> {
        let (_, Item::Enum(found)) = self.find(file, name)? else { bail!("{name} is not an enum") };
        let rule = serde(&found.attrs, "rename_all");
        found.variants.iter().map(|variant| self::variant(variant, rule.as_deref())).collect()
    }

    /// An item by name: the one in this file, else the only one, else the only one that is serialized.
    fn find(&self, file: &str, name: &str) -> Result<&Found> {
        let all: Vec<_> = self.0.iter().filter(|(_, item)| is_called(item, name)).collect();
        let only = |wanted: &dyn Fn(&Found) -> bool| {
            let mut wanted = all.iter().copied().filter(|found| wanted(found));
            wanted.next().filter(|_| wanted.next().is_none())
        };
        only(&|(stem, _)| stem == file)
            .or_else(|| only(&|_| true))
            .or_else(|| only(&|(_, item)| is_serialized(item)))
            .with_context(|| format!("{} types are called {name}, seen from {file}.rs", all.len()))
    }

    fn struct_fields(&self, (file, item): &Found, prefix: &str, into: &mut Vec<Described>) -> Result<()> {
        let Item::Struct(found) = item else { bail!("not a struct") };
        let Fields::Named(fields) = &found.fields else { bail!("{} has no named fields", found.ident) };
        fields
            .named
            .iter()
            .try_for_each(|field| self.field(field, file, prefix, into))
            .with_context(|| found.ident.to_string())
    }

    fn field(&self, field: &Field, file: &str, prefix: &str, into: &mut Vec<Described>) -> Result<()> {
        let name = field.ident.as_ref().expect("a named field").to_string();
        let shape = self.shape(&field.ty, file).with_context(|| name.clone())?;
        let flat = has_serde(&field.attrs, "flatten");
        if let (true, Some(inner)) = (flat, shape.structure) {
            return self.struct_fields(inner, prefix, into);
        }
        let meaning = documentation(&field.attrs);
        if meaning.is_empty() {
            bail!("{name} has no doc comment: the reference needs one");
        }
        let optional = if has_serde(&field.attrs, "skip_serializing_if") { "; may be missing" } else { "" };
        // The keys of a map that is flattened are known at run time only.
        let path = if flat { format!("{prefix}*") } else { format!("{prefix}{name}") };
        into.push(Described { path: path.clone(), kind: shape.words + optional, meaning });
        match shape.structure {
            Some(inner) => self.struct_fields(inner, &format!("{path}{}.", shape.suffix), into),
            None => Ok(()),
        }
    }

    fn shape(&self, kind: &Type, file: &str) -> Result<Shape<'_>> {
        match kind {
            Type::Reference(reference) => self.shape(&reference.elem, file),
            Type::Slice(slice) => Ok(self.shape(&slice.elem, file)?.array()),
            Type::Array(array) => Ok(self.shape(&array.elem, file)?.array()),
            Type::Path(path) => {
                let mut segments = path.path.segments.iter().rev();
                let last = segments.next().context("a type without a name")?;
                // `conns::Line` is the one in `conns.rs`.
                let module = segments.next().map(|segment| segment.ident.to_string());
                let file = module.as_deref().unwrap_or(file);
                self.named(&last.ident.to_string(), &arguments(&last.arguments), file)
            }
            _ => bail!("a type that JSON has no word for"),
        }
    }

    fn named(&self, name: &str, arguments: &[&Type], file: &str) -> Result<Shape<'_>> {
        Ok(match (name, arguments) {
            ("u8" | "u16" | "u32" | "u64" | "usize", _) => Shape::plain("integer"),
            ("f32" | "f64", _) => Shape::plain("number"),
            ("bool", _) => Shape::plain("boolean"),
            ("str" | "String" | "IpAddr" | "Cidr", _) => Shape::plain("string"),
            ("Option", [inner]) => {
                let inner = self.shape(inner, file)?;
                Shape { words: inner.words + " or null", ..inner }
            }
            ("Vec", [inner]) => self.shape(inner, file)?.array(),
            ("BTreeMap", [_, inner]) => {
                let inner = self.shape(inner, file)?;
                Shape {
                    words: format!("object of {}", plural(&inner.words)),
                    suffix: ".*",
                    structure: inner.structure,
                }
            }
            _ => match self.find(file, name)? {
                found @ (_, Item::Struct(_)) => {
                    Shape { words: "object".to_owned(), suffix: "", structure: Some(found) }
                }
                _ => {
                    let values: Vec<_> = self
                        .variants(file, name)?
                        .into_iter()
                        .map(|(value, _)| format!("`{value}`"))
                        .collect();
                    Shape::plain(&values.join(", "))
                }
            },
        })
    }
}

fn is_called(item: &Item, name: &str) -> bool {
    match item {
        Item::Struct(found) => found.ident == name,
        Item::Enum(found) => found.ident == name,
        _ => false,
    }
}

fn is_serialized(item: &Item) -> bool {
    let (Item::Struct(syn::ItemStruct { attrs, .. }) | Item::Enum(syn::ItemEnum { attrs, .. })) = item else {
        return false;
    };
    let derives = attrs.iter().filter(|attribute| attribute.path().is_ident("derive"));
    derives
        .filter_map(|attribute| attribute.meta.require_list().ok())
        .any(|list| list.tokens.clone().into_iter().any(|token| token.to_string() == "Serialize"))
}

/// What a type is in JSON.
struct Shape<'a> {
    words: String,
    /// What stands between its name and those of its fields.
    suffix: &'static str,
    structure: Option<&'a Found>,
}

impl Shape<'_> {
    fn plain(words: &str) -> Self {
        Self { words: words.to_owned(), suffix: "", structure: None }
    }

    fn array(self) -> Self {
        Self { words: format!("array of {}", plural(&self.words)), suffix: "[]", ..self }
    }
}

fn plural(words: &str) -> String {
    match words.split_once(' ') {
        Some((first, rest)) => format!("{first}s {rest}"),
        None => format!("{words}s"),
    }
}

fn read(directory: &Path, items: &mut Vec<Found>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, items)?;
        } else if let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".rs")) {
            let file =
                syn::parse_file(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
            items.extend(file.items.into_iter().map(|item| (stem.to_owned(), unwrapped(item))));
        }
    }
    Ok(())
}

/// `described! { struct … }` declares the struct.
fn unwrapped(item: Item) -> Item {
    match &item {
        Item::Macro(found) if found.mac.path.is_ident("described") => found.mac.parse_body().unwrap_or(item),
        _ => item,
    }
}

fn arguments(arguments: &PathArguments) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(kind) => Some(kind),
        _ => None,
    });
    types.collect()
}

fn variant(variant: &Variant, rule: Option<&str>) -> Result<(String, String)> {
    let plain = variant.ident.to_string();
    let name = match (serde(&variant.attrs, "rename"), rule) {
        (Some(name), _) => name,
        (None, Some("lowercase")) => plain.to_lowercase(),
        (None, Some("snake_case")) => snake_case(&plain),
        (None, Some(other)) => bail!("rename_all = {other} is not known here"),
        (None, None) => plain,
    };
    Ok((name, documentation(&variant.attrs)))
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// A doc comment as one line, its links as what they show.
fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => literal(&pair.value),
        _ => None,
    });
    let text = lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ");
    text.replace("[`", "`").replace("`]", "`")
}

/// The value of `#[serde(key = "value")]`.
fn serde(attributes: &[Attribute], key: &str) -> Option<String> {
    let mut found = None;
    visit_serde(attributes, |name, value| {
        if name == key {
            found = value;
        }
    });
    found
}

fn has_serde(attributes: &[Attribute], key: &str) -> bool {
    let mut found = false;
    visit_serde(attributes, |name, _| found |= name == key);
    found
}

fn visit_serde(attributes: &[Attribute], mut visit: impl FnMut(&str, Option<String>)) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let value = match meta.value() {
                Ok(value) => literal(&value.parse::<Expr>()?),
                Err(_) => None,
            };
            visit(&name, value);
            Ok(())
        });
    }
}

fn literal(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}
