//! Which voices of which windows are one speaker's: agglomerative clustering.
//!
//! Two clusters are as alike as their members are on average (UPGMA; Sokal and Michener, 1958): of unit vectors that is the
//! dot product of the clusters' means. Speakers whom one window tells apart speak against it: [`APART`] is taken for each
//! such pair and member of the smaller cluster. That is no bar, as windows tell one speaker for two now and then.
//!
//! Work and memory are bounded by blocks: what follows each other in time is joined first, more carefully, so that hours
//! cost as minutes do, each.

use std::collections::BTreeMap;

use crate::store::flat::dot;

/// What a pair of one window takes from how alike clusters are.
const APART: f32 = 0.3;
/// Clusters that are compared with one another at a time.
const BLOCK: usize = 1024;
/// How much more alike than elsewhere what is joined within a block must be, at first and then less each time.
const CARE: f32 = 0.1;

/// A voice of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Track<'a> {
    /// Of length 1.
    pub vector: &'a [f32],
    pub window: usize,
    pub seconds: f32,
}

/// Tracks on their way together.
#[derive(Debug, Clone)]
struct Cluster {
    /// Of the members' vectors.
    sum: Vec<f32>,
    seconds: f32,
    members: Vec<usize>,
}

/// All ways to cut tracks into clusters, from each by itself to all in one.
pub(super) struct Tree {
    clusters: Vec<Cluster>,
    /// What is joined, one after the other: into, from, how alike they were.
    joins: Vec<(usize, usize, f32)>,
}

impl Tree {
    /// Of tracks in order of time. Those at least `alike` are joined before all others.
    pub fn new(tracks: &[Track<'_>], alike: f32) -> Tree {
        let one = |(at, track): (usize, &Track<'_>)| Cluster {
            sum: track.vector.to_vec(),
            seconds: track.seconds,
            members: vec![at],
        };
        let mut clusters: Vec<Cluster> = tracks.iter().enumerate().map(one).collect();
        let mut careful = alike + CARE;
        while clusters.len() > BLOCK {
            let before = clusters.len();
            let block = |block: &[Cluster]| {
                let tree = Tree { joins: joins(block, tracks), clusters: block.to_vec() };
                tree.first(tree.steps(careful))
            };
            clusters = clusters.chunks(BLOCK).flat_map(block).collect();
            // What does not come together is taken together less carefully, so that this ends.
            if clusters.len() > before - before / 8 {
                careful -= CARE;
            }
        }
        Tree { joins: joins(&clusters, tracks), clusters }
    }

    /// Clusters of tracks that are at least `alike`.
    pub fn cut(&self, alike: f32) -> Vec<Vec<usize>> {
        members(self.first(self.steps(alike)))
    }

    /// So many clusters of at least `least` seconds, with as many joins as that takes; where there is no such number of
    /// them, so many of any length.
    pub fn exactly(&self, count: usize, least: f32) -> Vec<Vec<usize>> {
        let mut seconds: Vec<f32> = self.clusters.iter().map(|cluster| cluster.seconds).collect();
        let big = |seconds: f32| usize::from(seconds >= least);
        let mut now: usize = seconds.iter().copied().map(big).sum();
        let mut steps = (now == count).then_some(0);
        for (at, &(into, from, _)) in self.joins.iter().enumerate() {
            now -= big(seconds[into]) + big(seconds[from]);
            seconds[into] += std::mem::take(&mut seconds[from]);
            now += big(seconds[into]);
            if now == count {
                steps = Some(at + 1);
            }
        }
        match steps {
            Some(steps) => {
                let mut clusters = self.first(steps);
                clusters.retain(|cluster| cluster.seconds >= least);
                members(clusters)
            }
            None => members(self.first(self.clusters.len().saturating_sub(count))),
        }
    }

    /// Joins until the first of clusters that are less alike.
    fn steps(&self, alike: f32) -> usize {
        self.joins.iter().position(|join| join.2 < alike).unwrap_or(self.joins.len())
    }

    /// The first `steps` joins.
    fn first(&self, steps: usize) -> Vec<Cluster> {
        let mut all: Vec<Option<Cluster>> = self.clusters.iter().cloned().map(Some).collect();
        for &(into, from, _) in self.joins.iter().take(steps) {
            let Some(other) = all.get_mut(from).and_then(Option::take) else { continue };
            if let Some(Some(cluster)) = all.get_mut(into) {
                cluster.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
                cluster.seconds += other.seconds;
                cluster.members.extend(other.members);
            }
        }
        all.into_iter().flatten().collect()
    }
}

fn members(clusters: Vec<Cluster>) -> Vec<Vec<usize>> {
    clusters.into_iter().map(|cluster| cluster.members).collect()
}

/// How clusters stand to one another as they are joined: square tables, row by row.
struct Table {
    n: usize,
    sizes: Vec<f32>,
    /// Mean cosine of the pairs of two clusters.
    cosines: Vec<f32>,
    /// Pairs of two clusters that are of one window.
    together: Vec<f32>,
    /// How alike two clusters are; minus infinity of one with itself, and where one is gone.
    alike: Vec<f32>,
    /// The most alike of each, and how much.
    best: Vec<(usize, f32)>,
}

impl Table {
    fn new(clusters: &[Cluster], tracks: &[Track<'_>]) -> Table {
        let n = clusters.len();
        let sizes = clusters.iter().map(|cluster| cluster.members.len() as f32).collect();
        let (mut cosines, mut together) = (vec![0f32; n * n], vec![0f32; n * n]);
        let mut windows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, cluster) in clusters.iter().enumerate() {
            for track in cluster.members.iter().filter_map(|&member| tracks.get(member)) {
                windows.entry(track.window).or_default().push(at);
            }
        }
        for pair in
            windows.values().flat_map(|here| here.iter().flat_map(|a| here.iter().map(move |b| (*a, *b))))
        {
            if pair.0 != pair.1 {
                together[pair.0 * n + pair.1] += 1.0;
            }
        }
        for (i, a) in clusters.iter().enumerate() {
            for (j, b) in clusters.iter().enumerate().take(i) {
                let cosine = dot(&a.sum, &b.sum) / (a.members.len() * b.members.len()) as f32;
                (cosines[i * n + j], cosines[j * n + i]) = (cosine, cosine);
            }
        }
        let alike = vec![f32::NEG_INFINITY; n * n];
        let mut table = Table { n, sizes, cosines, together, alike, best: Vec::new() };
        for i in 0..n {
            (0..n).for_each(|j| table.alike[i * n + j] = table.judge(i, j));
        }
        table.best = (0..n).map(|i| table.nearest(i)).collect();
        table
    }

    fn judge(&self, i: usize, j: usize) -> f32 {
        if i == j || self.sizes[i] == 0.0 || self.sizes[j] == 0.0 {
            return f32::NEG_INFINITY;
        }
        self.cosines[i * self.n + j]
            - APART * self.together[i * self.n + j] / self.sizes[i].min(self.sizes[j])
    }

    fn nearest(&self, i: usize) -> (usize, f32) {
        let row = self.alike[i * self.n..(i + 1) * self.n].iter().enumerate();
        row.fold((0, f32::NEG_INFINITY), |best, (j, &alike)| if alike > best.1 { (j, alike) } else { best })
    }

    /// Joins the two most alike of all.
    fn join(&mut self) -> Option<(usize, usize, f32)> {
        let n = self.n;
        let (a, &(b, alike)) = self.best.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1))?;
        let (into, from) = (a.min(b), a.max(b));
        let (one, other) = (self.sizes[into], self.sizes[from]);
        for k in 0..n {
            let cosine =
                (one * self.cosines[into * n + k] + other * self.cosines[from * n + k]) / (one + other);
            let together = self.together[into * n + k] + self.together[from * n + k];
            (self.cosines[into * n + k], self.cosines[k * n + into]) = (cosine, cosine);
            (self.together[into * n + k], self.together[k * n + into]) = (together, together);
        }
        (self.sizes[into], self.sizes[from]) = (one + other, 0.0);
        for k in 0..n {
            for i in [into, from] {
                let alike = self.judge(i, k);
                (self.alike[i * n + k], self.alike[k * n + i]) = (alike, alike);
            }
        }
        for k in 0..n {
            let (at, alike) = (self.best[k].0, self.alike[k * n + into]);
            if k == into || k == from || at == into || at == from {
                self.best[k] = self.nearest(k);
            } else if alike > self.best[k].1 {
                self.best[k] = (into, alike);
            }
        }
        Some((into, from, alike))
    }
}

/// Joins everything, the two most alike at a time. `O(n^2)` memory and, but for odd data, time.
fn joins(clusters: &[Cluster], tracks: &[Track<'_>]) -> Vec<(usize, usize, f32)> {
    let mut table = Table::new(clusters, tracks);
    (1..clusters.len()).filter_map(|_| table.join()).collect()
}
