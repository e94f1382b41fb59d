//! Reads sources and tells which of their paths cross a border that the table does not open.
//!
//! It knows syntax, not names: a path counts by its first segments, resolved against the module it stands in. What
//! could carry a name around that (a re-export, the crate root imported as a whole, `include!`, `#[path]`) is
//! refused as such. It knows nothing of which layer may do what; that is the table's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::{self, Visit};

use super::names::{imported, is_glob_over, names_a_source};

/// What one layer may import. A layer is a module with all below it that has no row of its own.
pub(crate) struct Layer {
    /// Path of the module from the crate root; empty for the root itself.
    pub(crate) module: &'static str,
    /// Which of our own paths, each with all below it. `*` means all.
    pub(crate) ours: &'static [&'static str],
    /// Which crates. `*` means all. Unit tests may use any.
    pub(crate) crates: &'static [&'static str],
    /// Parts of allowed crates that are refused all the same; unit tests may use them.
    pub(crate) without: &'static [&'static str],
}

/// The whole table with what is needed to read a path.
pub(crate) struct Rules {
    pub(crate) layers: &'static [Layer],
    /// Crates that a path can start with.
    pub(crate) crates: BTreeSet<String>,
    /// Every module of ours, as `tui::view`.
    pub(crate) modules: BTreeSet<String>,
}

/// A source file.
pub(crate) struct Source {
    pub(crate) module: Vec<String>,
    pub(crate) is_test: bool,
    pub(crate) syntax: syn::File,
}

/// A path that crosses a border.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The module in which it stands.
    pub(crate) module: String,
    /// The path as resolved.
    pub(crate) path: String,
    pub(crate) problem: &'static str,
}

pub(crate) const NOT_ALLOWED: &str = "is not for this layer";
pub(crate) const CRATE_NOT_ALLOWED: &str = "is a crate that this layer does without";
pub(crate) const RE_EXPORT: &str = "is re-exported: a name has one home, or it slips past the other layers' rules";
pub(crate) const ROOT_IMPORT: &str = "imports the crate root as a whole, which hides what is used";
pub(crate) const HIDDEN_SOURCE: &str = "brings in source that this test does not see";

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let module = if self.module.is_empty() { "lib.rs" } else { &self.module };
        write!(f, "{module}: {} {}", self.path, self.problem)
    }
}

impl Rules {
    /// Every violation of one source file, in its order.
    pub(crate) fn check(&self, source: &Source) -> Vec<Violation> {
        let mut reader = Reader {
            rules: self,
            module: source.module.clone(),
            is_test: source.is_test,
            is_re_export: false,
            imported: imported(&source.syntax, &self.crates),
            found: Vec::new(),
        };
        reader.visit_file(&source.syntax);
        reader.found
    }

    /// The row that a path of ours falls under: the longest that it starts with.
    fn layer_of(&self, path: &[String]) -> Option<&Layer> {
        self.layers
            .iter()
            .filter(|layer| starts_with(path, layer.module))
            .max_by_key(|layer| layer.module.split("::").filter(|part| !part.is_empty()).count())
    }
}

/// Names of the modules declared in `syntax` with `#[cfg(test)]` and a file of their own.
pub(crate) fn test_modules(syntax: &syn::File) -> Vec<String> {
    syntax
        .items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Mod(item) if item.content.is_none() && is_cfg_test(&item.attrs) => Some(item.ident.to_string()),
            _ => None,
        })
        .collect()
}

struct Reader<'r> {
    rules: &'r Rules,
    module: Vec<String>,
    is_test: bool,
    is_re_export: bool,
    /// What names of this file stand for, as far as another crate's are meant.
    imported: BTreeMap<String, Vec<String>>,
    found: Vec<Violation>,
}

impl Reader<'_> {
    fn violation(&mut self, path: &[String], problem: &'static str) {
        let violation = Violation { module: self.module.join("::"), path: path.join("::"), problem };
        if !self.found.contains(&violation) {
            self.found.push(violation);
        }
    }

    /// Judges one path. `is_import`: it stands in a `use`, so that even one segment names something elsewhere.
    fn path(&mut self, segments: &[String], is_global: bool, is_import: bool) {
        let Some(first) = segments.first() else { return };
        let ours = match first.as_str() {
            "crate" | "portolan" => Some(segments[1..].to_vec()),
            _ if is_global => None,
            "self" | "super" => Some(self.relative(segments)),
            name => {
                let mut child = self.module.clone();
                child.push(name.to_owned());
                self.rules.modules.contains(&child.join("::")).then(|| {
                    let mut path = child;
                    path.extend_from_slice(&segments[1..]);
                    path
                })
            }
        };
        match ours {
            Some(path) => self.own_path(&path, is_import),
            None if is_global || (self.rules.crates.contains(first) && (is_import || segments.len() > 1)) => {
                self.foreign_path(segments);
            }
            None if !is_import && segments.len() > 1 => {
                if let Some(start) = self.imported.get(first) {
                    let path: Vec<String> = start.iter().chain(&segments[1..]).cloned().collect();
                    self.foreign_path(&path);
                }
            }
            None => {}
        }
    }

    /// `self::…` and `super::…` from the crate root.
    fn relative(&self, segments: &[String]) -> Vec<String> {
        let mut base = self.module.clone();
        let mut rest = segments;
        while let [first, tail @ ..] = rest {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            rest = tail;
        }
        base.extend_from_slice(rest);
        base
    }

    fn own_path(&mut self, path: &[String], is_import: bool) {
        let Some(here) = self.rules.layer_of(&self.module) else { return };
        let path: Vec<String> = path.iter().filter(|part| *part != "self").cloned().collect();
        if is_import && path.first().is_none_or(|part| part == "*") && !self.module.is_empty() {
            self.violation(&["crate".to_owned()], ROOT_IMPORT);
            return;
        }
        if path.is_empty() {
            return;
        }
        let there = self.rules.layer_of(&path).map(|layer| layer.module);
        if there == Some(here.module) {
            return;
        }
        if !here.ours.iter().any(|allowed| *allowed == "*" || starts_with(&path, allowed)) {
            self.violation(&path, NOT_ALLOWED);
        } else if self.is_re_export && !path.starts_with(&self.module) {
            // What lies below may be shown at its parent: whoever may not know the one may not know the other.
            self.violation(&path, RE_EXPORT);
        }
    }

    fn foreign_path(&mut self, segments: &[String]) {
        if self.is_test {
            return;
        }
        let Some(here) = self.rules.layer_of(&self.module) else { return };
        if !here.crates.iter().any(|allowed| *allowed == "*" || *allowed == segments[0]) {
            self.violation(segments, CRATE_NOT_ALLOWED);
        } else if here.without.iter().any(|refused| starts_with(segments, refused) || is_glob_over(segments, refused)) {
            self.violation(segments, NOT_ALLOWED);
        } else if self.is_re_export {
            self.violation(segments, RE_EXPORT);
        }
    }

    fn use_tree(&mut self, tree: &syn::UseTree, prefix: &[String], is_global: bool) {
        let with = |name: &syn::Ident| {
            let mut path = prefix.to_vec();
            path.push(name.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&path.tree, &with(&path.ident), is_global),
            syn::UseTree::Name(name) => self.path(&with(&name.ident), is_global, true),
            syn::UseTree::Rename(rename) => self.path(&with(&rename.ident), is_global, true),
            syn::UseTree::Glob(_) => {
                let mut path = prefix.to_vec();
                path.push("*".to_owned());
                self.path(&path, is_global, true);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix, is_global);
                }
            }
        }
    }

    /// Macros are opaque to syn: their paths are picked out of the tokens, groups of a `use` included.
    fn tokens(&mut self, mut cursor: Cursor<'_>, prefix: &[String], are_attributes: bool) {
        let mut path = prefix.to_vec();
        let mut is_global = false;
        let mut joins = !prefix.is_empty();
        let mut after_type = false;
        while !cursor.eof() {
            if let Some((ident, rest)) = cursor.ident() {
                after_type = false;
                if !joins {
                    self.flush(&mut path, &mut is_global);
                }
                path.push(ident.to_string());
                joins = false;
                cursor = rest;
            } else if let Some((inner, _, _, rest)) = cursor.any_group() {
                if joins && !path.is_empty() {
                    self.tokens(inner, &path, are_attributes);
                    path.clear();
                } else {
                    self.flush(&mut path, &mut is_global);
                    self.tokens(inner, &[], are_attributes);
                }
                joins = false;
                after_type = true;
                cursor = rest;
            } else if let Some((first, rest)) = cursor.punct() {
                let second = rest.punct().filter(|(second, _)| first.as_char() == ':' && second.as_char() == ':');
                if let Some((_, rest)) = second {
                    if std::mem::take(&mut after_type) {
                        // `<A>::b`: what follows belongs to the type, which was looked at by itself.
                        path.push("Self".to_owned());
                    }
                    is_global |= path.is_empty();
                    joins = true;
                    cursor = rest;
                    continue;
                }
                if joins && first.as_char() == '*' {
                    path.push("*".to_owned());
                }
                self.flush(&mut path, &mut is_global);
                after_type = first.as_char() == '>';
                if first.as_char() == ',' {
                    // The next one of a group starts where the group does.
                    path = prefix.to_vec();
                }
                joins = !path.is_empty();
                cursor = rest;
            } else if let Some((literal, rest)) = cursor.literal() {
                self.flush(&mut path, &mut is_global);
                if are_attributes {
                    self.path_in_text(&literal.to_string());
                }
                joins = false;
                cursor = rest;
            } else if let Some((_, rest)) = cursor.lifetime() {
                self.flush(&mut path, &mut is_global);
                joins = false;
                cursor = rest;
            } else {
                break;
            }
        }
        self.flush(&mut path, &mut is_global);
    }

    fn flush(&mut self, path: &mut Vec<String>, is_global: &mut bool) {
        let is_global = std::mem::take(is_global);
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.path(&path, is_global, false);
        }
    }

    /// `#[serde(with = "crate::there")]`.
    fn path_in_text(&mut self, literal: &str) {
        if let Ok(path) = syn::parse_str::<syn::Path>(literal.trim_matches('"')) {
            self.visit_path(&path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.attrs.iter().any(names_a_source) {
            self.violation(&[format!("#[path] mod {}", item.ident)], HIDDEN_SOURCE);
        }
        if item.content.is_none() {
            return;
        }
        let was_test = self.is_test;
        self.is_test |= is_cfg_test(&item.attrs);
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.is_test = was_test;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.is_re_export = !matches!(item.vis, syn::Visibility::Inherited);
        self.use_tree(&item.tree, &[], item.leading_colon.is_some());
        self.is_re_export = false;
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.is_re_export = !matches!(item.vis, syn::Visibility::Inherited);
        if item.ident == "self" {
            self.violation(&["crate".to_owned()], ROOT_IMPORT);
        } else {
            self.path(&[item.ident.to_string()], true, true);
        }
        self.is_re_export = false;
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {
        // `pub(super)` imports nothing.
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&segments, path.leading_colon.is_some(), false);
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if let Some(of) = path.qself.as_ref().filter(|of| of.position == 0) {
            // `<A>::b` names something of A, not of a crate called b.
            self.visit_type(&of.ty);
            path.path.segments.iter().for_each(|segment| self.visit_path_segment(segment));
        } else {
            visit::visit_expr_path(self, path);
        }
    }

    fn visit_type_path(&mut self, path: &'ast syn::TypePath) {
        if let Some(of) = path.qself.as_ref().filter(|of| of.position == 0) {
            self.visit_type(&of.ty);
            path.path.segments.iter().for_each(|segment| self.visit_path_segment(segment));
        } else {
            visit::visit_type_path(self, path);
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if item.path.segments.last().is_some_and(|segment| segment.ident == "include") {
            self.violation(&["include!".to_owned()], HIDDEN_SOURCE);
        }
        self.visit_path(&item.path);
        let buffer = TokenBuffer::new2(item.tokens.clone());
        self.tokens(buffer.begin(), &[], false);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        self.visit_path(attribute.path());
        if let syn::Meta::List(list) = &attribute.meta {
            let buffer = TokenBuffer::new2(list.tokens.clone());
            self.tokens(buffer.begin(), &[], true);
        }
    }
}

/// Whether `path` is `start` or lies below it; everything lies below the root.
fn starts_with(path: &[String], start: &str) -> bool {
    let mut path = path.iter();
    start.split("::").filter(|part| !part.is_empty()).all(|part| path.next().is_some_and(|segment| segment == part))
}

fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|argument| argument.is_ident("test"))
    })
}
