//! Which points a filter means.

use roaring::RoaringBitmap;

use super::fields::Fields;
use super::text::Text;
use crate::store::error::Error;
use crate::store::truth::View;
use crate::types::store::Filter;

/// What filters are answered from.
pub struct Asked<'a> {
    pub name: &'a str,
    pub collection: u32,
    pub view: &'a View,
    pub live: &'a RoaringBitmap,
    pub fields: &'a Fields,
    pub text: Option<&'a Text>,
}

impl Asked<'_> {
    /// The points that match.
    ///
    /// # Errors
    /// Words are asked for and the collection's are not indexed; the disk cannot be read.
    pub fn points(&self, filter: &Filter) -> Result<RoaringBitmap, Error> {
        let Asked { collection, view, .. } = *self;
        Ok(match filter {
            Filter::All(filters) => {
                let mut all = self.live.clone();
                for filter in filters {
                    if all.is_empty() {
                        break;
                    }
                    all &= self.points(filter)?;
                }
                all
            }
            Filter::Any(filters) => {
                let mut any = RoaringBitmap::new();
                for filter in filters {
                    any |= self.points(filter)?;
                }
                any
            }
            Filter::Not(filter) => self.live - self.points(filter)?,
            Filter::In(field, scalars) => self.live & self.fields.having(field, scalars, view, collection)?,
            Filter::Within(field, range) => {
                self.live & self.fields.within(field, *range, view, collection)?
            }
            Filter::Exists(field) => self.live & self.fields.existing(field, view, collection)?,
            Filter::Ids(ids) => {
                let mut points = RoaringBitmap::new();
                for id in ids {
                    points.extend(view.number(collection, id)?);
                }
                points & self.live
            }
            Filter::Words(words) => {
                let text = self.text.ok_or_else(|| Error::NoText(self.name.to_owned()))?;
                self.live & text.having(words)?
            }
        })
    }
}
