//! Lists that are given a page at a time: from a place that is named by the id of what is there.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::ApiError;

const LIMIT: usize = 20;

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageAsked {
    /// Entries of the page; 20 if absent.
    pub limit: Option<usize>,
    /// `desc` (the newest first, if absent) or `asc`.
    pub order: Option<String>,
    /// The page begins after the entry of this id.
    pub after: Option<String>,
    /// The page ends before the entry of this id.
    pub before: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl PageAsked {
    /// The page of a list that has the newest first; at most `most` entries of it.
    pub(in crate::http) fn of<T>(
        &self,
        mut list: Vec<T>,
        id: impl Fn(&T) -> &str,
        most: usize,
    ) -> Result<Page<T>, ApiError> {
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=most).contains(&limit) {
            return Err(ApiError::invalid(
                "limit",
                format!("`limit` is {limit}; it must be from 1 to {most}"),
            ));
        }
        match self.order.as_deref() {
            None | Some("desc") => {}
            Some("asc") => list.reverse(),
            Some(_) => return Err(ApiError::invalid("order", "`order` must be `asc` or `desc`")),
        }
        let place = |param: &'static str, wanted: &str| {
            let missing = || ApiError::invalid(param, format!("`{param}` names no entry of this list"));
            list.iter().position(|entry| id(entry) == wanted).ok_or_else(missing)
        };
        let from =
            self.after.as_deref().map(|after| place("after", after)).transpose()?.map_or(0, |at| at + 1);
        let to = self.before.as_deref().map(|before| place("before", before)).transpose()?;
        list.truncate(to.unwrap_or(list.len()));
        let mut data: Vec<T> = list.into_iter().skip(from).take(limit + 1).collect();
        let has_more = data.len() > limit;
        data.truncate(limit);
        let ends = |entry: Option<&T>| entry.map(|entry| id(entry).to_owned());
        Ok(Page { object: "list", first_id: ends(data.first()), last_id: ends(data.last()), data, has_more })
    }
}

impl<T> Page<T> {
    /// The same page of something else that takes a while to make.
    pub(super) async fn try_map<'a, U>(
        self,
        to: impl Fn(T) -> BoxFuture<'a, Result<U, ApiError>>,
    ) -> Result<Page<U>, ApiError> {
        let Page { object, data, first_id, last_id, has_more } = self;
        let mut made = Vec::with_capacity(data.len());
        for entry in data {
            made.push(to(entry).await?);
        }
        Ok(Page { object, data: made, first_id, last_id, has_more })
    }

    /// The same page of something else.
    pub(in crate::http) fn map<U>(self, to: impl FnMut(T) -> U) -> Page<U> {
        let Page { object, data, first_id, last_id, has_more } = self;
        Page { object, data: data.into_iter().map(to).collect(), first_id, last_id, has_more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let list = || ["d", "c", "b", "a"].map(str::to_owned).to_vec();
        let page =
            |asked: PageAsked| asked.of(list(), |id| id, 3).map(|page| (page.data.concat(), page.has_more));
        let ask = |limit, order: &str, after: Option<&str>, before: Option<&str>| PageAsked {
            limit: Some(limit),
            order: Some(order.to_owned()),
            after: after.map(str::to_owned),
            before: before.map(str::to_owned),
        };
        assert_eq!(page(ask(3, "desc", None, None)).unwrap(), ("dcb".to_owned(), true));
        assert_eq!(page(ask(3, "desc", Some("b"), None)).unwrap(), ("a".to_owned(), false));
        assert_eq!(page(ask(3, "asc", Some("a"), Some("d"))).unwrap(), ("bc".to_owned(), false));
        assert_eq!(page(ask(1, "asc", None, None)).unwrap(), ("a".to_owned(), true));
        for wrong in [
            ask(4, "asc", None, None),
            ask(0, "asc", None, None),
            ask(1, "up", None, None),
            ask(1, "asc", Some("x"), None),
        ] {
            assert!(page(wrong).is_err());
        }
    }
}
