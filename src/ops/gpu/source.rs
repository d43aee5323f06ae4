//! The kernels' sources, as they are compiled at run time.

/// A source file: its stem, and its text with what it includes.
pub(crate) struct Source {
    pub stem: &'static str,
    text: &'static str,
}

const COMMON: &str = include_str!("../../../kernels/common.cuh");
/// What some files include besides, each of which includes the common parts itself.
const PARTS: [(&str, &str); 4] = [
    ("#include \"cells.cuh\"", include_str!("../../../kernels/cells.cuh")),
    ("#include \"round.cuh\"", include_str!("../../../kernels/round.cuh")),
    ("#include \"shared.cuh\"", include_str!("../../../kernels/shared.cuh")),
    ("#include \"tiles.cuh\"", include_str!("../../../kernels/tiles.cuh")),
];

/// Every file of kernels.
pub(crate) const ALL: [Source; 10] = [
    Source { stem: "argmax", text: include_str!("../../../kernels/argmax.cu") },
    Source { stem: "attention", text: include_str!("../../../kernels/attention.cu") },
    Source { stem: "cross", text: include_str!("../../../kernels/cross.cu") },
    Source { stem: "elementwise", text: include_str!("../../../kernels/elementwise.cu") },
    Source { stem: "gate", text: include_str!("../../../kernels/gate.cu") },
    Source { stem: "layer_norm", text: include_str!("../../../kernels/layer_norm.cu") },
    Source { stem: "paged", text: include_str!("../../../kernels/paged.cu") },
    Source { stem: "qlinear", text: include_str!("../../../kernels/qlinear.cu") },
    Source { stem: "rms_norm", text: include_str!("../../../kernels/rms_norm.cu") },
    Source { stem: "sample", text: include_str!("../../../kernels/sample.cu") },
];

impl Source {
    /// A file of a test's own.
    #[cfg(test)]
    pub fn planted(text: &'static str) -> Source {
        Source { stem: "planted", text }
    }

    /// One text that needs no other file: each part stands in for its first inclusion, which is the file's own.
    pub fn text(&self) -> String {
        let common = "#include \"common.cuh\"";
        let mut text = self.text.replacen(common, COMMON, 1);
        for (include, part) in PARTS {
            // What one part includes another may have before it.
            text = text.replacen(include, &part.replace(common, ""), 1).replace(include, "");
        }
        text.replace("#pragma once", "")
    }

    /// The file that holds a kernel; kernels are named after it.
    pub fn of(kernel: &str) -> Option<&'static Source> {
        ALL.iter().find(|s| {
            kernel.strip_prefix(s.stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        })
    }
}

/// What the compiler is told, for a card of this compute capability.
pub(crate) fn options((major, minor): (i32, i32)) -> [String; 3] {
    [format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_owned(), "--use_fast_math".to_owned()]
}
