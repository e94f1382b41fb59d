//! What a source can say without naming it in full: by an import, by a glob, by a file of its own choice.

use std::collections::{BTreeMap, BTreeSet};

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::Visit;

/// What the names of a file stand for that it imports from elsewhere, wherever in it that stands.
pub(crate) fn imported(syntax: &syn::File, crates: &BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
    struct Imports(BTreeMap<String, Vec<String>>);

    impl Imports {
        fn tree(&mut self, tree: &syn::UseTree, prefix: &[String]) {
            let with = |name: &syn::Ident| prefix.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
            match tree {
                syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
                // `net::{self}` is `net`.
                syn::UseTree::Name(name) if name.ident == "self" => {
                    self.0.extend(prefix.last().map(|last| (last.clone(), prefix.to_vec())));
                }
                syn::UseTree::Name(name) => drop(self.0.insert(name.ident.to_string(), with(&name.ident))),
                syn::UseTree::Rename(rename) => drop(self.0.insert(rename.rename.to_string(), with(&rename.ident))),
                syn::UseTree::Glob(_) => {}
                syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, prefix)),
            }
        }
    }

    impl Visit<'_> for Imports {
        fn visit_item_use(&mut self, item: &syn::ItemUse) {
            self.tree(&item.tree, &[]);
        }
    }

    let mut imports = Imports(BTreeMap::new());
    imports.visit_file(syntax);
    // Ours are judged where they are imported.
    imports.0.retain(|_, path| path.first().is_some_and(|first| crates.contains(first)));
    imports.0
}

/// `std::net::*` over `std::net::TcpStream`.
pub(crate) fn is_glob_over(path: &[String], refused: &str) -> bool {
    let below: Vec<String> = refused.split("::").map(str::to_owned).collect();
    path.split_last().is_some_and(|(last, above)| last == "*" && below.starts_with(above))
}

/// `#[path = "…"]`, or the same behind any condition.
pub(crate) fn names_a_source(attribute: &syn::Attribute) -> bool {
    fn has_path(mut cursor: Cursor<'_>) -> bool {
        while let Some((tree, rest)) = cursor.token_tree() {
            let is_path = cursor.ident().is_some_and(|(ident, _)| ident == "path");
            if is_path && rest.punct().is_some_and(|(punct, _)| punct.as_char() == '=') {
                return true;
            }
            if cursor.any_group().is_some_and(|(inner, ..)| has_path(inner)) {
                return true;
            }
            drop(tree);
            cursor = rest;
        }
        false
    }
    attribute.path().is_ident("path")
        || attribute.path().is_ident("cfg_attr")
            && matches!(&attribute.meta, syn::Meta::List(list)
                if has_path(TokenBuffer::new2(list.tokens.clone()).begin()))
}
