//! The tool `file_search`: passages of vector stores are found by what the user said last, before the model answers, and
//! what it cites of them is annotated. The server searches each time: whether to is not left to the model, as small ones
//! are bad at it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::items::{Item, Status, new_id};
use super::request::FlatTool;
use crate::http::openai::fields::Bounded;
use crate::http::openai::vector_stores::filter::WireFilter;
use crate::http::openai::vector_stores::search::{Ranking, count, score};
use crate::http::{ApiError, State};
use crate::service::Context;
use crate::service::rag::{HINT, cited};
use crate::types::llm::{Message, Prompt, Request, Role};
use crate::types::rag::{By, Passage, Question};
use crate::types::store::{Filter, Fusion};

/// Vector stores that are searched at once.
pub(super) const MAX_STORES: usize = 8;
/// Passages where nothing else is asked for.
const RESULTS: usize = 20;

/// What is searched, and how.
#[derive(Debug, Clone)]
pub(super) struct FileSearch {
    stores: Vec<String>,
    k: usize,
    filter: Option<Filter>,
    by: By,
    fusion: Fusion,
    /// Passages of lower scores are left out.
    least: f32,
    /// Whether the item of the search has what was found.
    pub show: bool,
    pub echo: FileSearchEcho,
}

/// The tool as an answer repeats it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = FileSearchTool)]
pub(crate) struct FileSearchEcho {
    /// `file_search`.
    r#type: &'static str,
    vector_store_ids: Vec<String>,
    max_num_results: usize,
}

/// A passage that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = FileSearchResult)]
pub(crate) struct SearchResult {
    file_id: String,
    filename: String,
    score: f32,
    text: String,
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
}

/// A source that a text cites by its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ResponseAnnotation)]
pub(crate) struct Annotation {
    /// `file_citation`.
    r#type: String,
    file_id: String,
    filename: String,
    /// Characters of the text before the end of the citation.
    index: usize,
}

/// A search that was done.
#[derive(Debug, Default)]
pub(super) struct Searched {
    pub query: String,
    /// What the model was shown: the first of them is number 1.
    sources: Vec<Passage>,
    show: bool,
}

impl FileSearch {
    /// Checks the tool that stands at `path`.
    pub fn read(path: &str, tool: FlatTool, show: bool) -> Result<FileSearch, ApiError> {
        let stores = tool.vector_store_ids.map(|Bounded(ids)| ids).unwrap_or_default();
        if stores.is_empty() {
            let param = format!("{path}.vector_store_ids");
            return Err(ApiError::invalid(
                param.clone(),
                format!("`{param}` is missing: name a vector store"),
            ));
        }
        let k = count(tool.max_num_results, RESULTS)?;
        let ranking = tool.ranking_options.as_ref();
        let (by, fusion) = ranking.map_or(Ok(Default::default()), Ranking::fusion)?;
        Ok(FileSearch {
            echo: FileSearchEcho {
                r#type: "file_search",
                vector_store_ids: stores.clone(),
                max_num_results: k,
            },
            stores,
            k,
            filter: tool.filters.as_ref().map(WireFilter::read).transpose()?,
            by,
            fusion,
            least: ranking.and_then(|ranking| ranking.score_threshold).unwrap_or(0.0),
            show,
        })
    }

    /// Searches by what the user said last, and puts what was found before it. Where the conversation goes on from what
    /// a function gave, nothing is searched.
    pub async fn run(
        &self,
        state: &State,
        ctx: &Context,
        request: &mut Request,
    ) -> Result<Option<Searched>, ApiError> {
        let Prompt::Chat(turns) = &mut request.prompt else { return Ok(None) };
        let last = turns.last().filter(|turn| turn.role == Role::User && !turn.content.trim().is_empty());
        let Some(query) = last.map(|turn| turn.content.clone()) else { return Ok(None) };
        for store in &self.stores {
            state.vector_stores().touch(store).await?;
        }
        let question = Question {
            collections: self.stores.clone(),
            text: query.clone(),
            k: self.k,
            filter: self.filter.clone(),
            by: self.by,
            fusion: self.fusion,
            reranker: state.settings().default_rerank.clone(),
        };
        let mut passages = state.rag().find(ctx, &question).await?;
        passages.retain(|passage| score(passage) >= self.least);
        let mut turns = std::mem::take(turns);
        // Many templates know of one system message, at the start.
        match turns.first_mut().filter(|turn| turn.role == Role::System) {
            Some(first) => first.content = format!("{}\n\n{HINT}", first.content),
            None => turns.insert(0, Message::new(Role::System, HINT)),
        }
        let grounded = state.rag().ground(ctx, &request.model, turns, passages, request.max_tokens);
        let (turns, sources) = grounded.await?;
        request.prompt = Prompt::Chat(turns);
        Ok(Some(Searched { query, sources, show: self.show }))
    }
}

impl Searched {
    /// The search as an item of the response.
    pub fn item(&self, status: Status) -> Item {
        let result = |passage: &Passage| SearchResult {
            file_id: passage.document.clone(),
            filename: passage.name.clone(),
            score: score(passage),
            text: passage.text.clone(),
            attributes: passage.attributes.clone(),
        };
        let results = self.show.then(|| self.sources.iter().map(result).collect());
        Item::FileSearchCall { id: new_id("fs"), status, queries: vec![self.query.clone()], results }
    }

    /// What a text cites.
    pub fn annotations(&self, text: &str) -> Vec<Annotation> {
        let cited = cited(text, self.sources.len()).into_iter();
        let annotation = |(number, end): (usize, usize)| {
            let source = self.sources.get(number - 1)?;
            Some(Annotation {
                r#type: "file_citation".to_owned(),
                file_id: source.document.clone(),
                filename: source.name.clone(),
                index: text.get(..end)?.chars().count(),
            })
        };
        cited.filter_map(annotation).collect()
    }
}
