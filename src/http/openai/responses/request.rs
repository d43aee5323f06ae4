//! `POST /v1/responses` as it is sent.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::echo::{ChoiceEcho, Echo, Metadata, ReasoningEcho, TextEcho, ToolEcho};
use super::input::{TextOrItems, WireInput};
use super::items::Item;
use super::search::{FileSearch, MAX_STORES};
use crate::http::ApiError;
use crate::http::openai::described::{ResponseToolChoice, StringOrList};
use crate::http::openai::fields::{Asked, Bounded, LogitBias, ModelName, Stop, refuse};
use crate::http::openai::format;
use crate::http::openai::shared::Wire;
use crate::http::openai::thinking::{Effort, TemplateOptions, thinking};
use crate::http::openai::tools::{self, MAX_TOOLS, WireChoice, WireFunction};
use crate::http::openai::vector_stores::filter::WireFilter;
use crate::http::openai::vector_stores::search::Ranking;
use crate::service::responses::ResponseId;
use crate::types::llm::{Constraint, Prompt, Request, ToolChoice, Tools};

const MAX_USER: usize = 512;
const MAX_INCLUDED: usize = 32;

/// What to answer, and how. Fields that are not listed are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CreateResponse)]
pub(crate) struct ResponseRequest {
    /// Id or alias of a chat model; may be left out where the server has a default.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    model: Option<ModelName>,
    /// A text, or the items of a conversation, the oldest first.
    #[serde(default)]
    #[schema(value_type = Option<TextOrItems>)]
    input: Option<WireInput>,
    /// A system message for this answer alone: those of earlier responses are not taken over.
    #[serde(default)]
    instructions: Option<String>,
    /// Go on from this response: everything that was said up to it comes before `input`.
    #[serde(default)]
    previous_response_id: Option<String>,
    /// Keep the response, so that it can be found and gone on from; true if absent.
    #[serde(default)]
    store: Option<bool>,
    /// Send the answer as server-sent events while it is written.
    #[serde(default)]
    stream: Option<bool>,
    /// Upper limit of generated tokens, thoughts included; clamped to what the context leaves.
    #[serde(default)]
    #[schema(minimum = 1)]
    max_output_tokens: Option<u64>,
    /// 0 (greedy) to 2; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// 0 to 1; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    /// The form of the answer.
    #[serde(default)]
    text: Option<WireText>,
    /// Functions that the model may call, and at most one `file_search`, which the server does before it answers.
    #[serde(default)]
    #[schema(value_type = Option<Vec<FlatTool>>, max_items = 128)]
    tools: Option<Bounded<FlatTool, MAX_TOOLS>>,
    /// `none`, `auto` (if absent), `required`, or a function by name. The last two are enforced.
    #[serde(default)]
    #[schema(value_type = Option<ResponseToolChoice>)]
    tool_choice: WireChoice,
    /// Whether one answer may make several calls; true if absent.
    #[serde(default)]
    parallel_tool_calls: Option<bool>,
    /// For models that think.
    #[serde(default)]
    reasoning: Option<WireReasoning>,
    /// Kept with the response: up to 16 pairs.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    metadata: Option<Metadata>,
    /// Repeated in the answer.
    #[serde(default)]
    user: Option<String>,
    /// Only `disabled`: a conversation that does not fit is an error.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    truncation: Asked,
    /// What else the answer is to have: `file_search_call.results`. `message.output_text.logprobs` is refused; the rest
    /// speaks of what there is not here.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    include: Option<Bounded<String, MAX_INCLUDED>>,

    // What this server takes in chat, too, beside OpenAI's fields.
    /// Up to 16 strings that end the answer; a string or a list of strings.
    #[serde(default)]
    #[schema(value_type = Option<StringOrList>)]
    stop: Option<Stop>,
    /// The likeliest tokens to choose from; 0 or -1, or absent: all.
    #[serde(default)]
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Least probability of a token, as a share of the likeliest one's; 0 if absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    /// Above 1: what was said already, in prompt or answer, becomes less likely. 0.01 to 10; 1 if absent.
    #[serde(default)]
    #[schema(minimum = 0.01, maximum = 10)]
    repetition_penalty: Option<f64>,
    /// From token ids to what is added to their logits, -100 to 100; up to 1024.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, f64>>)]
    logit_bias: Option<LogitBias>,
    /// The same seed and input give the same text.
    #[serde(default)]
    seed: Option<i64>,
    /// -2 to 2.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    /// -2 to 2.
    #[serde(default)]
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    /// For models that think: tokens after which thinking is closed. Goes over `reasoning.effort`.
    #[serde(default)]
    thinking_budget: Option<u32>,
    /// What the model's chat template is told: `enable_thinking` alone.
    #[serde(default)]
    chat_template_kwargs: Option<TemplateOptions>,

    #[serde(default)]
    #[schema(ignore)]
    background: Asked,
    #[serde(default)]
    #[schema(ignore)]
    conversation: Asked,
    #[serde(default)]
    #[schema(ignore)]
    prompt: Asked,
    #[serde(default)]
    #[schema(ignore)]
    context_management: Asked,
    #[serde(default)]
    #[schema(ignore)]
    moderation: Asked,
    #[serde(default)]
    #[schema(ignore)]
    top_logprobs: Asked,
    // The names that other calls have for fields of this one.
    #[serde(default)]
    #[schema(ignore)]
    messages: Asked,
    #[serde(default)]
    #[schema(ignore)]
    max_tokens: Asked,
    #[serde(default)]
    #[schema(ignore)]
    max_completion_tokens: Asked,
    #[serde(default)]
    #[schema(ignore)]
    response_format: Asked,
    #[serde(default)]
    #[schema(ignore)]
    structured_outputs: Asked,
    #[serde(default)]
    #[schema(ignore)]
    guided_json: Asked,
    #[serde(default)]
    #[schema(ignore)]
    guided_regex: Asked,
    #[serde(default)]
    #[schema(ignore)]
    guided_choice: Asked,
    #[serde(default)]
    #[schema(ignore)]
    guided_grammar: Asked,
    #[serde(default)]
    #[schema(ignore)]
    reasoning_effort: Asked,
    #[serde(default)]
    #[schema(ignore)]
    logprobs: Asked,
    #[serde(default)]
    #[schema(ignore)]
    n: Option<u64>,
}

/// The form of the answer.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponseText)]
pub(crate) struct WireText {
    #[serde(default)]
    format: Option<TextFormat>,
    #[serde(default)]
    #[schema(ignore)]
    verbosity: Asked,
}

/// Free text, any JSON object, or JSON of a schema, which is always enforced, whatever `strict` says.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    r#type: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// For `json_schema`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

/// A function that the model may call, or a search of files.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponseTool)]
pub(crate) struct FlatTool {
    /// `function` or `file_search`.
    r#type: String,
    /// 1 to 64 letters, digits, `_`, `-` or `.`.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// The JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    parameters: Option<Value>,
    /// Where a call is enforced: refuse a schema with keywords that cannot be, instead of passing them over.
    #[serde(default)]
    strict: Option<bool>,
    /// Of `file_search`: ids of vector stores, or names of collections of documents; up to 8.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 8)]
    pub(super) vector_store_ids: Option<Bounded<String, MAX_STORES>>,
    /// Of `file_search`: 1 to 50; 20 if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 50)]
    pub(super) max_num_results: Option<usize>,
    /// Of `file_search`.
    #[serde(default)]
    pub(super) filters: Option<WireFilter>,
    /// Of `file_search`.
    #[serde(default)]
    pub(super) ranking_options: Option<Ranking>,
}

/// How a model that thinks is to think. Its thoughts come as they are, so no `summary` is made of them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ResponseReasoning)]
pub(crate) struct WireReasoning {
    /// `none`, `minimal` (256 tokens), `low` (1024), `medium` (4096), or `high`, `xhigh`, `max` (no bound).
    #[serde(default)]
    effort: Option<Effort>,
    #[serde(default)]
    #[schema(ignore)]
    context: Asked,
    #[serde(default)]
    #[schema(ignore)]
    mode: Asked,
}

/// A request, checked; only what came before is not there yet.
pub(super) struct Wanted {
    /// In the service's terms, without its prompt.
    pub request: Request,
    pub input: Vec<Item>,
    pub instructions: Option<String>,
    pub search: Option<FileSearch>,
    pub stream: bool,
    pub echo: Echo,
}

impl ResponseRequest {
    fn check_unsupported(&self) -> Result<(), ApiError> {
        refuse(&[("truncation", &self.truncation)], &["disabled"])?;
        refuse(
            &[
                ("background", &self.background),
                ("conversation", &self.conversation),
                ("prompt", &self.prompt),
                ("context_management", &self.context_management),
                ("moderation", &self.moderation),
                ("top_logprobs", &self.top_logprobs),
                ("messages", &self.messages),
                ("max_tokens", &self.max_tokens),
                ("max_completion_tokens", &self.max_completion_tokens),
                ("response_format", &self.response_format),
                ("structured_outputs", &self.structured_outputs),
                ("guided_json", &self.guided_json),
                ("guided_regex", &self.guided_regex),
                ("guided_choice", &self.guided_choice),
                ("guided_grammar", &self.guided_grammar),
                ("reasoning_effort", &self.reasoning_effort),
                ("logprobs", &self.logprobs),
            ],
            &[],
        )?;
        if self.n.is_some_and(|n| n != 1) {
            let message = "a response is one answer; leave `n` out";
            return Err(ApiError::unsupported("n", message));
        }
        if let Some(text) = &self.text {
            refuse(&[("text.verbosity", &text.verbosity)], &["medium"])?;
        }
        if let Some(reasoning) = &self.reasoning {
            refuse(&[("reasoning.context", &reasoning.context)], &["auto", "current_turn"])?;
            refuse(&[("reasoning.mode", &reasoning.mode)], &["standard"])?;
        }
        let included = self.include.iter().flat_map(|include| &include.0);
        if included.into_iter().any(|word| word == "message.output_text.logprobs") {
            let message = "log-probabilities are not offered in responses; leave them out of `include`";
            return Err(ApiError::unsupported("include", message));
        }
        Ok(())
    }

    /// Checks everything that the request says by itself.
    pub(super) fn check(self, default: &Option<String>) -> Result<Wanted, ApiError> {
        self.check_unsupported()?;
        if self.user.as_ref().is_some_and(|user| user.len() > MAX_USER) {
            return Err(ApiError::invalid("user", format!("`user` is longer than {MAX_USER} bytes")));
        }
        let previous = self.previous_response_id.filter(|id| !id.is_empty());
        let previous = previous.map(|id| ResponseId::parse(&id).ok_or_else(no_previous)).transpose()?;
        let input = match self.input {
            Some(input) => input.items()?,
            None if previous.is_some() => Vec::new(),
            None => return Err(ApiError::invalid("input", "`input` is missing")),
        };
        let wire = Wire {
            model: self.model,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            max_tokens: ("max_output_tokens", self.max_output_tokens),
            stop: self.stop,
            ..Wire::default()
        };
        let included = self.include.iter().flat_map(|include| &include.0);
        let show = included.into_iter().any(|word| word == "file_search_call.results");
        let (tools, search) = offered(self.tools, self.tool_choice, self.parallel_tool_calls, show)?;
        let format = self.text.and_then(|text| text.format).unwrap_or_else(TextFormat::free);
        let effort = self.reasoning.and_then(|reasoning| reasoning.effort);
        let thinking = thinking(self.thinking_budget, effort, self.chat_template_kwargs);
        let blank = wire.request(default, Prompt::Chat(Vec::new()))?;
        let request = Request { constraint: format.constraint()?, thinking, ..blank };
        let echo = Echo {
            background: false,
            instructions: self.instructions.clone(),
            max_output_tokens: self.max_output_tokens,
            metadata: self.metadata.unwrap_or_default(),
            parallel_tool_calls: tools.parallel,
            previous_response_id: previous,
            reasoning: ReasoningEcho { effort, summary: None },
            service_tier: "default",
            store: self.store.unwrap_or(true),
            temperature: self.temperature.unwrap_or(1.0),
            text: TextEcho { format },
            tool_choice: ChoiceEcho::new(&tools.choice),
            tools: ToolEcho::all(&tools.list, search.as_ref()),
            top_logprobs: 0,
            top_p: self.top_p.unwrap_or(1.0),
            truncation: "disabled",
            user: self.user,
        };
        let search = search.filter(|_| tools.choice != ToolChoice::None);
        let stream = self.stream.unwrap_or(false);
        let request = Request { tools, ..request };
        let instructions = self.instructions.filter(|text| !text.is_empty());
        Ok(Wanted { request, input, instructions, search, stream, echo })
    }
}

/// The answer where `previous_response_id` cannot be the id of a response.
fn no_previous() -> ApiError {
    let message = "`previous_response_id` is not the id of a response: they begin with `resp_`";
    ApiError::new(axum::http::StatusCode::NOT_FOUND, "previous_response_not_found", message)
        .param("previous_response_id")
}

/// The functions that the model may call, and the search that the server does.
fn offered(
    list: Option<Bounded<FlatTool, MAX_TOOLS>>,
    choice: WireChoice,
    parallel: Option<bool>,
    show: bool,
) -> Result<(Tools, Option<FileSearch>), ApiError> {
    let (list, search) = split(list, show)?;
    let choice = match (&search, list.is_empty()) {
        (Some(_), true) => choice.or_auto(),
        _ => choice,
    };
    Ok((flat_tools(list, choice, parallel)?, search))
}

/// The functions with their places, and the search of files.
type Split = (Vec<(usize, FlatTool)>, Option<FileSearch>);

fn split(list: Option<Bounded<FlatTool, MAX_TOOLS>>, show: bool) -> Result<Split, ApiError> {
    let (mut functions, mut search) = (Vec::new(), None);
    for (at, tool) in list.map_or_else(Vec::new, |list| list.0).into_iter().enumerate() {
        match tool.r#type.as_str() {
            "file_search" if search.is_some() => {
                let message = "`tools` has `file_search` twice; name all vector stores in one";
                return Err(ApiError::invalid(format!("tools[{at}].type"), message));
            }
            "file_search" => search = Some(FileSearch::read(&format!("tools[{at}]"), tool, show)?),
            _ => functions.push((at, tool)),
        }
    }
    Ok((functions, search))
}

fn flat_tools(
    list: Vec<(usize, FlatTool)>,
    choice: WireChoice,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    let tool = |(at, tool): (usize, FlatTool)| {
        tools::check_type(at, &tool.r#type)?;
        let path = format!("tools[{at}]");
        let FlatTool { name, description, parameters, strict, .. } = tool;
        let name = name
            .ok_or_else(|| ApiError::invalid(format!("{path}.name"), format!("`{path}.name` is missing")))?;
        tools::function(&path, WireFunction { name, description, parameters, strict })
    };
    let list = list.into_iter().map(tool).collect::<Result<Vec<_>, _>>()?;
    tools::chosen(list, "name", choice, parallel)
}

impl TextFormat {
    fn free() -> TextFormat {
        TextFormat { r#type: "text".into(), name: None, description: None, schema: None, strict: None }
    }

    fn constraint(&self) -> Result<Option<(&'static str, Constraint)>, ApiError> {
        format::of_type(&self.r#type, self.schema.clone(), "text.format", "text.format")
    }
}
