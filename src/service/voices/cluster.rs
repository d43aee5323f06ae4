//! Which vectors are of one voice: agglomerative clustering.
//!
//! Two clusters are as alike as their members are on average (UPGMA; Sokal and Michener, 1958): of unit vectors that is the
//! dot product of the clusters' means. Work and memory are bounded by blocks: what
//! follows each other in time is joined first, more carefully, so that hours cost as minutes do, each.

use crate::store::flat::dot;

/// Clusters that are compared with one another at a time.
const BLOCK: usize = 1024;
/// How much more alike than elsewhere what is joined within a block must be.
const CARE: f32 = 0.08;

/// A vector of length 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point<'a> {
    pub vector: &'a [f32],
}

/// Points, or clusters of them, on their way together.
#[derive(Debug, Clone)]
struct Cluster {
    /// Sum of the members' vectors.
    sum: Vec<f32>,
    members: Vec<usize>,
}

/// Joins of two of `count` things, the most alike first: `(into, from, how alike)`.
struct Joins(Vec<(usize, usize, f32)>);

/// The clusters of points, of the points' numbers: those at least `alike` to one another, but as many as `fits` wants where
/// it is given how many there are and says so.
pub(super) fn cluster(
    points: &[Point<'_>],
    alike: f32,
    enough: impl Fn(&[Vec<usize>]) -> Wanted,
) -> Vec<Vec<usize>> {
    let mut clusters: Vec<Cluster> = points
        .iter()
        .enumerate()
        .map(|(at, point)| Cluster { sum: point.vector.to_vec(), members: vec![at] })
        .collect();
    let mut careful = alike + CARE;
    while clusters.len() > BLOCK {
        let before = clusters.len();
        clusters = clusters.chunks(BLOCK).flat_map(|block| cut(block, &joins(block), careful)).collect();
        // What does not come together is taken together less carefully, so that this ends.
        if clusters.len() > before - before / 8 {
            careful -= CARE;
        }
    }
    choose(&clusters, &joins(&clusters), alike, enough)
}

/// Whether there are as many clusters as are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    More,
    Fewer,
    So,
}

fn choose(
    clusters: &[Cluster],
    joins: &Joins,
    alike: f32,
    enough: impl Fn(&[Vec<usize>]) -> Wanted,
) -> Vec<Vec<usize>> {
    let members = |clusters: Vec<Cluster>| clusters.into_iter().map(|c| c.members).collect::<Vec<_>>();
    let found = members(cut(clusters, joins, alike));
    let wanted = enough(&found);
    if wanted == Wanted::So {
        return found;
    }
    // How many joins were done; one more or less at a time until there are as many as are wanted.
    let done = joins.0.iter().filter(|join| join.2 >= alike).count();
    let counts: Box<dyn Iterator<Item = usize>> = match wanted {
        Wanted::More => Box::new((0..done).rev()),
        _ => Box::new(done + 1..=joins.0.len()),
    };
    let mut last = found;
    for count in counts {
        let found = members(first(clusters, joins, count));
        match enough(&found) {
            Wanted::So => return found,
            now if now != wanted => return last,
            _ => last = found,
        }
    }
    last
}

/// All joins of things that are at least this alike.
fn cut(clusters: &[Cluster], joins: &Joins, alike: f32) -> Vec<Cluster> {
    first(clusters, joins, joins.0.iter().filter(|join| join.2 >= alike).count())
}

/// The first `count` joins.
fn first(clusters: &[Cluster], joins: &Joins, count: usize) -> Vec<Cluster> {
    let mut all: Vec<Option<Cluster>> = clusters.iter().cloned().map(Some).collect();
    for &(into, from, _) in joins.0.iter().take(count) {
        let Some(other) = all.get_mut(from).and_then(Option::take) else { continue };
        if let Some(Some(cluster)) = all.get_mut(into) {
            cluster.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
            cluster.members.extend(other.members);
        }
    }
    all.into_iter().flatten().collect()
}

/// Joins everything, the two most alike at a time. `O(n^2)` memory and, but for odd data, time.
fn joins(clusters: &[Cluster]) -> Joins {
    let n = clusters.len();
    let mut sizes: Vec<f32> = clusters.iter().map(|cluster| cluster.members.len() as f32).collect();
    let mut alike = vec![f32::NEG_INFINITY; n * n];
    for i in 0..n {
        for j in 0..i {
            let value = dot(&clusters[i].sum, &clusters[j].sum) / (sizes[i] * sizes[j]);
            (alike[i * n + j], alike[j * n + i]) = (value, value);
        }
    }
    // The nearest of each, kept up to date.
    let nearest = |alike: &[f32], i: usize| {
        let row = &alike[i * n..(i + 1) * n];
        row.iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (j, &v)| if v > best.1 { (j, v) } else { best })
    };
    let mut best: Vec<(usize, f32)> = (0..n).map(|i| nearest(&alike, i)).collect();
    let mut joins = Vec::with_capacity(n.saturating_sub(1));
    for _ in 1..n {
        let found = best.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let Some((a, &(b, value))) = found else { break };
        let (into, from) = (a.min(b), a.max(b));
        joins.push((into, from, value));
        for k in 0..n {
            let mean = if k == into || k == from || alike[from * n + k] == f32::NEG_INFINITY {
                f32::NEG_INFINITY
            } else {
                let (a, b) = (sizes[into], sizes[from]);
                (a * alike[into * n + k] + b * alike[from * n + k]) / (a + b)
            };
            (alike[into * n + k], alike[k * n + into]) = (mean, mean);
            (alike[from * n + k], alike[k * n + from]) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        }
        sizes[into] += sizes[from];
        best[from] = (0, f32::NEG_INFINITY);
        best[into] = nearest(&alike, into);
        for k in 0..n {
            if k == into || best[k].1 == f32::NEG_INFINITY {
                continue;
            }
            let value = alike[k * n + into];
            if best[k].0 == into || best[k].0 == from {
                best[k] = nearest(&alike, k);
            } else if value > best[k].1 {
                best[k] = (into, value);
            }
        }
    }
    Joins(joins)
}
