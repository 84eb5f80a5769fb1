//! The structure of the source, read from its `use` lines and paths: which file imports which.
//!
//! Imports point down the list in CONTRIBUTING.md. `cargo test --test structure -- --nocapture`
//! prints the picture: files, imports, circles, and the length of files and functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, ItemUse, UseTree,
    visit::{self, Visit},
};

/// A module that has a file of its own.
#[derive(Default)]
struct Module {
    file: String,
    /// What it defines.
    names: BTreeSet<String>,
    /// What it imports, by the name that this has here: absolute paths.
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// The paths of this crate that its code mentions, absolute.
    paths: BTreeSet<Vec<String>>,
    /// Lines of code and comments, without tests.
    lines: usize,
    /// The longest function, and how many lines it has.
    longest: (String, usize),
}

type Modules = BTreeMap<Vec<String>, Module>;

struct Reader<'a> {
    at: &'a [String],
    module: Module,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

impl Reader<'_> {
    /// The absolute path of one that begins with `crate`, `self` or `super`.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => self.at.to_vec(),
            "super" => self.at[..self.at.len() - 1].to_vec(),
            _ => return None,
        };
        for segment in &path[1..] {
            if segment == "super" {
                base.pop()?;
            } else {
                base.push(segment.clone());
            }
        }
        Some(base)
    }

    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(path.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
            UseTree::Glob(_) => self.globs(before),
            UseTree::Name(name) if name.ident == "self" => self.named(before.last(), before),
            UseTree::Name(name) => {
                self.named(Some(&name.ident.to_string()), &with(name.ident.to_string()));
            }
            UseTree::Rename(rename) => {
                self.named(Some(&rename.rename.to_string()), &with(rename.ident.to_string()));
            }
        }
    }

    fn globs(&mut self, path: &[String]) {
        self.module.globs.extend(self.absolute(path));
    }

    fn named(&mut self, name: Option<&String>, path: &[String]) {
        if let (Some(name), Some(path)) = (name, self.absolute(path)) {
            self.module.imports.insert(name.clone(), path);
        }
    }

    fn function(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (begin, end) = (signature.fn_token.span.start(), body.brace_token.span.close().end());
        let lines = end.line - begin.line + 1;
        if lines > self.module.longest.1 {
            self.module.longest = (signature.ident.to_string(), lines);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = match item {
            Item::Struct(item) => (Some(&item.ident), &item.attrs),
            Item::Enum(item) => (Some(&item.ident), &item.attrs),
            Item::Trait(item) => (Some(&item.ident), &item.attrs),
            Item::Type(item) => (Some(&item.ident), &item.attrs),
            Item::Const(item) => (Some(&item.ident), &item.attrs),
            Item::Static(item) => (Some(&item.ident), &item.attrs),
            Item::Fn(item) => (Some(&item.sig.ident), &item.attrs),
            Item::Mod(item) => (None, &item.attrs),
            Item::Impl(item) => (None, &item.attrs),
            Item::Use(item) => (None, &item.attrs),
            _ => (None, const { &Vec::new() }),
        };
        if is_test(attributes) {
            return;
        }
        self.module.names.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    /// Who may see something is no import.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.module.paths.extend(self.absolute(&segments));
        visit::visit_path(self, path);
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Reads a file and those below it.
fn read(at: Vec<String>, file: &Path, modules: &mut Modules) {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let parsed =
        syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut reader = Reader { at: &at, module: Module::default() };
    reader.visit_file(&parsed);
    let mut module = reader.module;
    module.file = file.strip_prefix(source()).unwrap().display().to_string();
    let tests = text.find("#[cfg(test)]\nmod tests {");
    module.lines = text[..tests.unwrap_or(text.len())].lines().count();
    let folder = if file.ends_with("mod.rs") || file.ends_with("lib.rs") {
        file.parent().unwrap().to_owned()
    } else {
        file.with_extension("")
    };
    for item in &parsed.items {
        let Item::Mod(child) = item else { continue };
        if child.content.is_some() || is_test(&child.attrs) {
            continue;
        }
        let name = child.ident.to_string();
        let below = [folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")];
        let below = below.into_iter().find(|file| file.exists()).expect("a module has a file");
        read([&at[..], &[name]].concat(), &below, modules);
    }
    modules.insert(at, module);
}

/// The file in which a path of this crate is defined, through re-exports.
fn resolve(modules: &Modules, path: &[String], depth: usize) -> Option<String> {
    if depth > 20 {
        return None;
    }
    let known = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let module = &modules[&path[..known]];
    let Some(name) = path.get(known) else { return Some(module.file.clone()) };
    if module.names.contains(name) {
        return Some(module.file.clone());
    }
    if let Some(import) = module.imports.get(name) {
        return resolve(modules, &[&import[..], &path[known + 1..]].concat(), depth + 1);
    }
    let below =
        |glob: &Vec<String>| resolve_named(modules, &[&glob[..], &path[known..]].concat(), depth);
    module.globs.iter().find_map(below).or_else(|| Some(module.file.clone()))
}

fn resolve_named(modules: &Modules, path: &[String], depth: usize) -> Option<String> {
    let module = modules.get(&path[..path.len() - 1])?;
    let name = path.last()?;
    let is_there = module.names.contains(name) || module.imports.contains_key(name);
    is_there.then(|| resolve(modules, path, depth + 1)).flatten()
}

struct Structure {
    modules: Modules,
    /// The files that each file imports.
    imports: BTreeMap<String, BTreeSet<String>>,
}

impl Structure {
    fn read() -> Self {
        let mut modules = Modules::new();
        read(Vec::new(), &source().join("lib.rs"), &mut modules);
        let mut imports = BTreeMap::new();
        for module in modules.values().filter(|module| module.file != "lib.rs") {
            let paths = module.imports.values().chain(&module.globs).chain(&module.paths);
            let mut of =
                paths.filter_map(|path| resolve(&modules, path, 0)).collect::<BTreeSet<_>>();
            of.retain(|file| *file != module.file && file != "lib.rs");
            if module.file.ends_with("mod.rs") {
                // What it says of its own files is their order and their names to others.
                let folder = module.file.trim_end_matches("mod.rs");
                of.retain(|file| !(is_front(module) && file.starts_with(folder)));
            }
            imports.insert(module.file.clone(), of);
        }
        Self { modules, imports }
    }

    /// Groups of files that import each other, the largest first.
    fn circles(&self) -> Vec<Vec<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.imports.keys().map(|file| (file.as_str(), self.reached_from(file))).collect();
        let mut circles: Vec<Vec<&str>> = Vec::new();
        for (file, from) in &reach {
            let with: Vec<_> =
                from.iter().copied().filter(|other| reach[other].contains(file)).collect();
            if with.contains(file) && !circles.contains(&with) {
                circles.push(with);
            }
        }
        circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
        circles
    }

    fn reached_from(&self, file: &str) -> BTreeSet<&str> {
        let (mut found, mut left) = (BTreeSet::new(), vec![file]);
        while let Some(next) = left.pop() {
            for file in self.imports.get(next).into_iter().flatten() {
                if found.insert(file.as_str()) {
                    left.push(file);
                }
            }
        }
        found
    }

    /// Imports that point up the list of rooms.
    fn upward(&self, rooms: &[Vec<String>]) -> Vec<String> {
        let floor = |file: &str| {
            let is_in = |place: &String| {
                file == place || (place.ends_with('/') && file.starts_with(place.as_str()))
            };
            rooms
                .iter()
                .position(|places| places.iter().any(is_in))
                .unwrap_or_else(|| panic!("{file} is in no row of CONTRIBUTING.md"))
        };
        let edges = self.imports.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
        edges
            .filter(|(from, to)| floor(from) > floor(to))
            .map(|(from, to)| format!("{from} -> {to}"))
            .collect()
    }
}

/// Says if a `mod.rs` defines nothing: it is prose and re-exports.
fn is_front(module: &Module) -> bool {
    module.names.is_empty()
}

/// The rows of CONTRIBUTING.md's list, from the top down: files and folders of `src`.
fn rooms() -> Vec<Vec<String>> {
    let text = fs::read_to_string(source().parent().unwrap().join("CONTRIBUTING.md")).unwrap();
    let table = text.split("## Where things live").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = |line: &str| -> Vec<String> {
        let cell = line.split('|').nth(1).unwrap_or_default();
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(|place| place.trim_start_matches("src/").to_owned())
            .collect()
    };
    table.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

fn median(mut of: Vec<usize>) -> usize {
    of.sort_unstable();
    of[of.len() / 2]
}

#[test]
fn imports_point_down_the_list_and_never_in_a_circle() {
    let structure = Structure::read();
    let (circles, upward) = (structure.circles(), structure.upward(&rooms()));
    let files: Vec<_> = structure.modules.values().collect();
    let longest_file = files.iter().max_by_key(|module| module.lines).unwrap();
    let longest = files.iter().max_by_key(|module| module.longest.1).unwrap();
    println!("files: {}", files.len());
    println!(
        "imports between files: {}",
        structure.imports.values().map(BTreeSet::len).sum::<usize>()
    );
    println!("imports that point up: {}", upward.len());
    upward.iter().for_each(|import| println!("  {import}"));
    println!("circles: {}", circles.len());
    circles.iter().for_each(|circle| println!("  {} files: {}", circle.len(), circle.join(", ")));
    println!("longest file: {} lines ({})", longest_file.lines, longest_file.file);
    println!("median file: {} lines", median(files.iter().map(|module| module.lines).collect()));
    println!(
        "longest function: {} lines ({} in {})",
        longest.longest.1, longest.longest.0, longest.file
    );
    assert!(upward.is_empty(), "imports point up: {upward:?}");
    assert!(circles.is_empty(), "files import each other in circles: {circles:?}");
}

/// Each rule of the protocol is kept by a line that `scripts/remove-rules` can remove.
#[test]
fn each_line_that_keeps_a_rule_is_there_once() {
    let root = source().parent().unwrap().to_owned();
    let rules: toml::Table =
        fs::read_to_string(root.join("tests/rules.toml")).unwrap().parse().unwrap();
    let rules = rules["rule"].as_array().unwrap();
    let protocol = fs::read_to_string(root.join("docs/lease-protocol.md")).unwrap();
    let is_rule = |line: &&str| {
        line.strip_prefix("### ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    for heading in protocol.lines().filter(is_rule) {
        let number = heading.trim_start_matches("### ").split('.').next().unwrap();
        let is_of = |rule: &&toml::Value| {
            rule["rule"].as_str().unwrap().split(':').next().unwrap() == number
        };
        assert!(rules.iter().any(|rule| is_of(&rule)), "tests/rules.toml lacks {heading}");
    }
    for rule in rules {
        let [file, code] = ["file", "code"].map(|key| rule[key].as_str().unwrap());
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(text.matches(code).count(), 1, "{file}: {code}");
    }
}
