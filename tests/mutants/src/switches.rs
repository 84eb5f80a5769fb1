//! Puts every mutant of a file into it, each behind a switch, so that one build has them all.
//!
//! `a < b` becomes `(if switch::is(7) { (a) <= (b) } else { a < b })`. Text is only inserted, never
//! taken away, so mutants may nest.

use std::{collections::BTreeSet, ops::Range};

use proc_macro2::{LineColumn, Span};
use syn::{spanned::Spanned, visit::Visit};

use crate::list::Mutant;

/// The module that a mutated crate gets: it tells which mutant the process runs.
pub(crate) const MODULE: &str = r#"
mod switch {
    pub(crate) fn is(number: usize) -> bool {
        static CHOSEN: std::sync::LazyLock<usize> = std::sync::LazyLock::new(|| {
            std::env::var("MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0)
        });
        *CHOSEN == number
    }
}
"#;

/// A file with switches.
pub(crate) struct Switched {
    pub(crate) text: String,
    /// Ranges of bytes of `text`, each with its mutant's number: a compile error there is its own.
    pub(crate) places: Vec<(usize, Range<usize>)>,
}

/// Inserts the mutants of a file, each behind a switch. These get none: code that is evaluated at
/// compile time (constants, and the `const` functions named in `constant`), and the value of a
/// function that returns `impl Trait`. All other functions lose their `const`.
pub(crate) fn switched(
    source: &str,
    mutants: &[(usize, &Mutant)],
    constant: &BTreeSet<String>,
) -> syn::Result<Switched> {
    let mut visitor = Switches { source, mutants, constant, depth: 0, insertions: Vec::new() };
    visitor.visit_file(&syn::parse_file(source)?);
    let mut insertions = visitor.insertions;
    insertions.sort_by_key(|insertion| (insertion.at, insertion.order));
    let mut text = String::new();
    let mut places = Vec::new();
    let mut copied = 0;
    for Insertion { at, pieces, .. } in insertions {
        text.push_str(&source[copied..at]);
        copied = at;
        for (number, piece) in pieces {
            let begin = text.len();
            text.push_str(&piece);
            places.extend(number.map(|number| (number, begin..text.len())));
        }
    }
    text.push_str(&source[copied..]);
    Ok(Switched { text, places })
}

struct Switches<'a> {
    source: &'a str,
    mutants: &'a [(usize, &'a Mutant)],
    constant: &'a BTreeSet<String>,
    depth: isize,
    insertions: Vec<Insertion>,
}

struct Insertion {
    at: usize,
    /// Order at the same byte: ends before beginnings; of ends the inner first, of beginnings the
    /// outer first.
    order: isize,
    pieces: Vec<(Option<usize>, String)>,
}

impl Switches<'_> {
    fn at(&self, place: LineColumn, genre: &str) -> Vec<(usize, String)> {
        let found = self.mutants.iter().filter(|(_, mutant)| {
            let start = &mutant.span.start;
            mutant.genre == genre && (start.line, start.column) == (place.line, place.column + 1)
        });
        found.map(|(number, mutant)| (*number, mutant.replacement.clone())).collect()
    }

    fn text(&self, span: Span) -> &str {
        &self.source[span.byte_range()]
    }

    fn insert(&mut self, at: usize, order: isize, pieces: Vec<(Option<usize>, String)>) {
        self.insertions.push(Insertion { at, order, pieces });
    }

    /// Puts alternatives before an expression: `(if switch::is(1) { other } else { expression })`.
    fn choose(&mut self, span: Span, alternatives: Vec<(usize, String)>) {
        if alternatives.is_empty() {
            return;
        }
        let mut pieces = vec![(None, "(".to_owned())];
        for (number, other) in alternatives {
            let piece = format!("if crate::switch::is({number}) {{ {other} }} else ");
            pieces.push((Some(number), piece));
        }
        pieces.push((None, "{ ".to_owned()));
        let bytes = span.byte_range();
        self.insert(bytes.start, self.depth, pieces);
        self.insert(bytes.end, -self.depth, vec![(None, " })".to_owned())]);
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        if let Some(token) = &signature.constness {
            if self.constant.contains(&signature.ident.to_string()) {
                return;
            }
            let bytes = token.span.byte_range();
            self.insert(bytes.start, 0, vec![(None, "/* ".to_owned())]);
            self.insert(bytes.end, 0, vec![(None, " */".to_owned())]);
        }
        // A value of another type cannot stand beside that of an `impl Trait`.
        let is_opaque = matches!(&signature.output, syn::ReturnType::Type(_, output)
            if matches!(**output, syn::Type::ImplTrait(_)));
        if let Some(first) = block.stmts.first().filter(|_| !is_opaque) {
            let values = self.at(first.span().start(), "FnValue");
            let pieces = values.into_iter().map(|(number, value)| {
                let piece = format!(" if crate::switch::is({number}) {{ return {value}; }}");
                (Some(number), piece)
            });
            let pieces = pieces.collect();
            self.insert(block.brace_token.span.open().byte_range().end, isize::MIN, pieces);
        }
        self.visit_block(block);
    }
}

impl<'ast> Visit<'ast> for Switches<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.function(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.function(&function.sig, &function.block);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(&function.sig, block);
        }
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_expr_repeat(&mut self, repeat: &'ast syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }

    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}

    fn visit_type(&mut self, _: &'ast syn::Type) {}

    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        let found = self.at(binary.op.span().start(), "BinaryOperator");
        if !is_chain_of_let(binary) {
            let (left, right) = (self.text(binary.left.span()), self.text(binary.right.span()));
            let others = found.into_iter();
            let others = others.map(|(number, op)| (number, format!("({left}) {op} ({right})")));
            let others = others.collect();
            self.choose(binary.span(), others);
        }
        self.depth += 1;
        syn::visit::visit_expr_binary(self, binary);
        self.depth -= 1;
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        let found = self.at(unary.op.span().start(), "UnaryOperator");
        let operand = self.text(unary.expr.span());
        let others = found.into_iter().map(|(number, _)| (number, operand.to_owned())).collect();
        self.choose(unary.span(), others);
        self.depth += 1;
        syn::visit::visit_expr_unary(self, unary);
        self.depth -= 1;
    }

    fn visit_expr_struct(&mut self, structure: &'ast syn::ExprStruct) {
        let mut others = Vec::new();
        for field in &structure.fields {
            for (number, _) in self.at(field.span().start(), "StructField") {
                let all = structure.span().byte_range();
                let without = field.span().byte_range();
                let after = self.source[without.end..all.end].trim_start();
                let after = after.strip_prefix(',').unwrap_or(after);
                others.push((number, self.source[all.start..without.start].to_owned() + after));
            }
        }
        self.choose(structure.span(), others);
        self.depth += 1;
        syn::visit::visit_expr_struct(self, structure);
        self.depth -= 1;
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let deleted = self.at(arm.span().start(), "MatchArm");
        if let Some((_, guard)) = &arm.guard {
            let values = self.at(guard.span().start(), "MatchArmGuard");
            let mut pieces: Vec<_> = deleted.iter().map(without_arm).collect();
            for (number, value) in values {
                let piece = match value.as_str() {
                    "true" => format!("crate::switch::is({number}) || "),
                    _ => format!("!crate::switch::is({number}) && "),
                };
                pieces.push((Some(number), piece));
            }
            // The first switch replaces the guard by `true`, the second by `false`.
            pieces.push((None, "(".to_owned()));
            let bytes = guard.span().byte_range();
            self.insert(bytes.start, self.depth, pieces);
            self.insert(bytes.end, -self.depth, vec![(None, ")".to_owned())]);
        } else if let Some(first) = deleted.first() {
            let (number, mut piece) = without_arm(first);
            piece.truncate(piece.len() - " && ".len());
            let end = arm.pat.span().byte_range().end;
            self.insert(end, 0, vec![(number, format!(" if {piece}"))]);
        }
        self.depth += 1;
        syn::visit::visit_arm(self, arm);
        self.depth -= 1;
    }
}

fn without_arm((number, _): &(usize, String)) -> (Option<usize>, String) {
    (Some(*number), format!("!crate::switch::is({number}) && "))
}

/// Returns `true` for `let a = b && c`: no block may stand around it.
fn is_chain_of_let(binary: &syn::ExprBinary) -> bool {
    [&binary.left, &binary.right].into_iter().any(|side| match &**side {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(inner) => is_chain_of_let(inner),
        _ => false,
    })
}
