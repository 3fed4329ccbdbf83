//! One file of a simulated disk: what a reader sees, and what would be left if the power failed now.
//!
//! Each block remembers its synced content and every content it has had since, because a disk may have any of those when the power
//! fails. Lengths are kept the same way. Two promises of a real file system are kept: a synced write brings the metadata that is
//! needed to read it back, and metadata changes become durable in the order in which they were made.
//!
//! ```text
//!   block:   synced | version | version | version      the last one is what readers see
//!   length:  synced | length  | length                 likewise
//!                     stamp ------------> grows
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dataplane::io::BLOCK_BYTES;

use super::random::Random;

/// Smallest part of a write that is never torn.
pub(super) const SECTOR_BYTES: usize = 512;

/// Contents of one block that are remembered beside the synced one.
const VERSIONS_MAX: usize = 6;

/// One block's bytes; `None` is a block of zeros.
type Content = Option<Rc<[u8]>>;

/// What may happen to data that was not synced when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsynced {
    Lost,
    Kept,
    /// Each block and each change decides for itself.
    Mixed,
}

impl Unsynced {
    pub(super) fn draw(random: &mut Random) -> Unsynced {
        match random.below(4) {
            0 => Unsynced::Lost,
            1 => Unsynced::Kept,
            _ => Unsynced::Mixed,
        }
    }

    /// Which of `choices` survives, 0 being the synced one and the last the newest.
    pub(super) fn pick(self, random: &mut Random, choices: usize) -> usize {
        match self {
            Unsynced::Lost => 0,
            Unsynced::Kept => choices - 1,
            Unsynced::Mixed => random.index(choices),
        }
    }
}

#[derive(Default)]
pub(super) struct SimFileData {
    blocks: BTreeMap<u64, Block>,
    /// Blocks with versions.
    unsynced: BTreeSet<u64>,
    /// Blocks with a version that a truncation made.
    truncated: BTreeSet<u64>,
    synced_size: Size,
    sizes: Vec<(u64, Size)>,
}

#[derive(Clone, Copy, Default)]
struct Size {
    bytes: u64,
    /// Blocks that the disk has given to this file, counted from its start: files here have no holes.
    blocks: u64,
}

#[derive(Default)]
struct Block {
    synced: Content,
    versions: Vec<Version>,
}

struct Version {
    content: Content,
    stamp: u64,
    /// Made by a truncation, so it is metadata: durable with the next metadata, whatever was synced.
    truncation: bool,
    /// A failed sync forgot it: no later sync makes it durable, as on Linux.
    forgotten: bool,
}

impl Block {
    fn latest(&self) -> &Content {
        self.versions
            .last()
            .map_or(&self.synced, |version| &version.content)
    }

    /// Makes version `index` durable and forgets what came before it.
    fn settle(&mut self, index: usize) {
        let newest = self.versions.drain(..=index).next_back();
        self.synced = newest.and_then(|version| version.content);
    }
}

impl SimFileData {
    pub(super) fn len(&self) -> u64 {
        self.size().bytes
    }

    /// Blocks that a write or allocation up to byte `end` would add to the disk's use.
    pub(super) fn blocks_needed(&self, end: u64) -> u64 {
        block_end(end).saturating_sub(self.size().blocks)
    }

    pub(super) fn blocks_used(&self) -> u64 {
        self.size().blocks
    }

    pub(super) fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let end = self.len().min(at.saturating_add(bytes as u64)).max(at);
        let mut result = vec![0; (end - at) as usize];
        for_each_block(at, result.len(), |index, in_block, in_range| {
            if let Some(content) = self
                .blocks
                .get(&index)
                .and_then(|block| block.latest().as_ref())
            {
                result[in_range].copy_from_slice(&content[in_block]);
            }
        });
        result
    }

    /// A completed write. `durable` also settles what it wrote and all metadata so far (O_DSYNC).
    pub(super) fn write(&mut self, stamp: u64, at: u64, bytes: &[u8], durable: bool) {
        let end = at + bytes.len() as u64;
        self.grow(stamp, end);
        for_each_block(at, bytes.len(), |index, in_block, in_range| {
            let mut content = self.content(index);
            content[in_block].copy_from_slice(&bytes[in_range]);
            self.add_version(index, stamp, &content, false);
        });
        if durable {
            self.settle_metadata(stamp);
            for_each_block(at, bytes.len(), |index, _, _| {
                let block = self.blocks.entry(index).or_default();
                let newest = block.versions.len() - 1;
                block.settle(newest);
                self.note_settled(index);
            });
        }
    }

    pub(super) fn allocate(&mut self, stamp: u64, end: u64) {
        self.grow(stamp, end);
    }

    pub(super) fn truncate(&mut self, stamp: u64, bytes: u64) {
        let boundary = bytes / BLOCK_BYTES as u64;
        let touched: Vec<u64> = self
            .blocks
            .range(boundary..)
            .map(|(&index, _)| index)
            .collect();
        for index in touched {
            let mut content = self.content(index);
            let kept = (bytes.saturating_sub(index * BLOCK_BYTES as u64) as usize).min(BLOCK_BYTES);
            content[kept..].fill(0);
            self.add_version(index, stamp, &content, true);
        }
        let blocks = block_end(bytes);
        self.sizes.push((stamp, Size { bytes, blocks }));
    }

    /// A successful sync that was asked for at `stamp`.
    pub(super) fn sync(&mut self, stamp: u64) {
        self.settle_metadata(stamp);
        for index in self.unsynced.clone() {
            let block = self.blocks.entry(index).or_default();
            let covered = |version: &Version| version.stamp <= stamp && !version.forgotten;
            if let Some(newest) = block.versions.iter().rposition(covered) {
                block.settle(newest);
                self.note_settled(index);
            }
        }
    }

    /// A failed sync: Linux reports it once and then takes the data for clean.
    pub(super) fn sync_failed(&mut self, stamp: u64) {
        for index in &self.unsynced {
            if let Some(block) = self.blocks.get_mut(index) {
                let versions = block.versions.iter_mut();
                versions
                    .filter(|version| version.stamp <= stamp)
                    .for_each(|version| version.forgotten = true);
            }
        }
    }

    /// The power fails and comes back: what is left is what the disk had.
    pub(super) fn lose_power(&mut self, random: &mut Random, fate: Unsynced) {
        let choice = fate.pick(random, self.sizes.len() + 1);
        let (metadata_stamp, size) = match choice.checked_sub(1) {
            Some(index) => self.sizes[index],
            None => (0, self.synced_size),
        };
        for index in std::mem::take(&mut self.unsynced) {
            let Some(block) = self.blocks.get_mut(&index) else {
                continue;
            };
            // Truncations up to the surviving metadata happened; writes behind a truncation that did not survive had nowhere to go.
            let survived =
                |version: &Version| version.truncation && version.stamp <= metadata_stamp;
            if let Some(floor) = block.versions.iter().rposition(survived) {
                block.settle(floor);
            }
            let reachable = block
                .versions
                .iter()
                .position(|version| version.truncation)
                .unwrap_or(block.versions.len());
            let choices: Vec<&Content> = std::iter::once(&block.synced)
                .chain(
                    block.versions[..reachable]
                        .iter()
                        .map(|version| &version.content),
                )
                .collect();
            let picked = fate.pick(random, choices.len());
            let mut content = bytes_of(choices[picked]);
            if fate == Unsynced::Mixed && random.below(8) == 0 {
                let other = bytes_of(choices[random.index(choices.len())]);
                tear(random, &mut content, &other);
            }
            block.synced = content_of(&content);
            block.versions.clear();
        }
        self.truncated.clear();
        self.sizes.clear();
        self.synced_size = size;
        self.cut_at_size();
    }

    /// Everything as it is now becomes durable, for files that a test plants and for replaced files.
    pub(super) fn settle_all(&mut self) {
        self.synced_size = self.size();
        self.sizes.clear();
        for block in self.blocks.values_mut() {
            if let Some(newest) = block.versions.len().checked_sub(1) {
                block.settle(newest);
            }
        }
        self.unsynced.clear();
        self.truncated.clear();
    }

    fn size(&self) -> Size {
        self.sizes
            .last()
            .map_or(self.synced_size, |&(_, size)| size)
    }

    fn grow(&mut self, stamp: u64, end: u64) {
        let size = self.size();
        let grown = Size {
            bytes: size.bytes.max(end),
            blocks: size.blocks.max(block_end(end)),
        };
        if grown.bytes > size.bytes || grown.blocks > size.blocks {
            self.sizes.push((stamp, grown));
        }
    }

    fn content(&self, index: u64) -> Vec<u8> {
        self.blocks
            .get(&index)
            .map_or_else(|| vec![0; BLOCK_BYTES], |block| bytes_of(block.latest()))
    }

    fn add_version(&mut self, index: u64, stamp: u64, content: &[u8], truncation: bool) {
        let block = self.blocks.entry(index).or_default();
        if block.versions.len() >= VERSIONS_MAX
            && let Some(oldest) = block
                .versions
                .iter()
                .position(|version| !version.truncation)
        {
            block.versions.remove(oldest);
        }
        block.versions.push(Version {
            content: content_of(content),
            stamp,
            truncation,
            forgotten: false,
        });
        self.unsynced.insert(index);
        if truncation {
            self.truncated.insert(index);
        }
    }

    fn settle_metadata(&mut self, stamp: u64) {
        if let Some(newest) = self.sizes.iter().rposition(|&(at, _)| at <= stamp) {
            self.synced_size = self.sizes[newest].1;
            self.sizes.drain(..=newest);
        }
        for index in self.truncated.clone() {
            let block = self.blocks.entry(index).or_default();
            let covered = |version: &Version| version.truncation && version.stamp <= stamp;
            if let Some(newest) = block.versions.iter().rposition(covered) {
                block.settle(newest);
                self.note_settled(index);
            }
        }
    }

    fn note_settled(&mut self, index: u64) {
        let Some(block) = self.blocks.get(&index) else {
            return;
        };
        if block.versions.is_empty() {
            self.unsynced.remove(&index);
            if block.synced.is_none() {
                self.blocks.remove(&index);
                self.truncated.remove(&index);
                return;
            }
        }
        if !block.versions.iter().any(|version| version.truncation) {
            self.truncated.remove(&index);
        }
    }

    /// Bytes past the end read as zeros if the file ever grows again.
    fn cut_at_size(&mut self) {
        let bytes = self.synced_size.bytes;
        self.blocks.split_off(&block_end(bytes));
        let in_block = (bytes % BLOCK_BYTES as u64) as usize;
        if in_block > 0
            && let Some(block) = self.blocks.get_mut(&(bytes / BLOCK_BYTES as u64))
        {
            let mut content = bytes_of(&block.synced);
            content[in_block..].fill(0);
            block.synced = content_of(&content);
        }
    }
}

/// Replaces each sector of `bytes` by that of `other` with even chance.
pub(super) fn tear(random: &mut Random, bytes: &mut [u8], other: &[u8]) {
    let sectors = bytes
        .chunks_mut(SECTOR_BYTES)
        .zip(other.chunks(SECTOR_BYTES));
    for (sector, other) in sectors {
        if random.coin() {
            sector.copy_from_slice(other);
        }
    }
}

fn block_end(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}

fn bytes_of(content: &Content) -> Vec<u8> {
    content
        .as_ref()
        .map_or_else(|| vec![0; BLOCK_BYTES], |bytes| bytes.to_vec())
}

fn content_of(bytes: &[u8]) -> Content {
    let zeros = bytes.iter().all(|&byte| byte == 0);
    (!zeros).then(|| Rc::from(bytes))
}

/// Calls `visit(block index, range in the block, range in the whole)` for each block that the range touches.
fn for_each_block(
    at: u64,
    bytes: usize,
    mut visit: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let mut done = 0;
    while done < bytes {
        let position = at + done as u64;
        let start = (position % BLOCK_BYTES as u64) as usize;
        let part = (BLOCK_BYTES - start).min(bytes - done);
        visit(
            position / BLOCK_BYTES as u64,
            start..start + part,
            done..done + part,
        );
        done += part;
    }
}
