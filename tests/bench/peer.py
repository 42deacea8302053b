"""What a user would have otherwise: transformers and peft in the loop of OpenFedLLM.

peer.py CHECKPOINT [--device cuda] [--attention NAME]

reads a job a line (JSON) from stdin and answers each with a line on stdout. CHECKPOINT is a Hugging Face directory; models are
loaded before the clock of a job starts and stay loaded. `start` is measured by whoever starts this program.
"""

import argparse
import json
import os
import random
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
END = "<|im_end|>"


class Peer:
    def __init__(self, checkpoint, device, attention):
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        # cuDNN plans attention anew for every shape that it meets, and padded batches have many.
        self.attention, _, without = attention.partition("-without-")
        if without == "cudnn":
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        # Not every transformers reads one from the checkpoint.
        self.tokenizer.pad_token = self.tokenizer.pad_token or END
        self.models = {}

    def base(self, dtype):
        options = {"dtype": DTYPES[dtype], "attn_implementation": self.attention}
        return AutoModelForCausalLM.from_pretrained(self.checkpoint, **options).to(self.device).eval()

    def model(self, dtype, adapted):
        """A model that has computed a little, so that the first measurement finds it warm."""
        if (dtype, adapted) not in self.models:
            model = self.base(dtype)
            if adapted:
                model = get_peft_model(model, LoraConfig(
                    r=16, lora_alpha=32, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
                ))  # fmt: skip
                train_step(model, None, self.padded([([1, 2, 3, 4], 2)] * 2))
            else:
                with torch.inference_mode():
                    model(torch.tensor([[1, 2, 3, 4]], device=self.device))
            self.models[dtype, adapted] = model
        return self.models[dtype, adapted]

    def encoded(self, rows, max_length):
        """Token ids of each row and where its response begins, as the chat template renders it."""
        texts = [self.prompt_text(row) for row in rows]
        prompts = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        responses = self.tokenizer([row["response"] + END for row in rows], add_special_tokens=False)["input_ids"]
        whole = [((prompt + response)[:max_length], len(prompt)) for prompt, response in zip(prompts, responses)]
        return [(ids, start) for ids, start in whole if start < len(ids)]

    def prompt_text(self, row):
        messages = [{"role": "user", "content": row["prompt"]}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def sft(self, job):
        """One epoch over the rows."""
        model = self.model(job["dtype"], adapted=True)
        rows = self.encoded(read(job["rows"]), job["max_length"])
        optimizer = new_optimizer(model)
        clock = Clock(self.device)
        for batch in batches(rows, job["batch_size"], job["grouped"]):
            train_step(model, optimizer, self.padded(batch))
        return clock.read() | {"tokens": sum(len(ids) for ids, _ in rows)}

    def round(self, job):
        """A round of OpenFedLLM: clients one after another on one model, their adapters averaged."""
        model = self.model(job["dtype"], adapted=True)
        rows = self.encoded(read(job["rows"]), job["max_length"])
        shard = len(rows) // job["clients"]
        shards = [rows[client * shard :][:shard] for client in range(job["clients"])]
        clock = Clock(self.device)
        start = copied(get_peft_model_state_dict(model))
        updates = []
        for own in shards:
            set_peft_model_state_dict(model, start)
            optimizer = new_optimizer(model)
            for batch in batches(own, job["batch_size"], grouped=False):
                train_step(model, optimizer, self.padded(batch))
            updates.append(copied(get_peft_model_state_dict(model)))
        mean = {name: sum(update[name] for update in updates) / len(updates) for name in start}
        set_peft_model_state_dict(model, mean)
        return clock.read() | {"tokens": sum(len(ids) for own in shards for ids, _ in own)}

    @torch.inference_mode()
    def generate(self, job):
        """Greedy decoding of all prompts in one batch, padded on the left."""
        model = self.model(job["dtype"], adapted=False)
        texts = [self.prompt_text(row) for row in read(job["rows"])]
        clock = Clock(self.device)
        inputs = self.tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        inputs = inputs.to(self.device)
        output = model.generate(
            **inputs, do_sample=False, max_new_tokens=job["max_new_tokens"], repetition_penalty=1.0, eos_token_id=2, pad_token_id=2
        )  # fmt: skip
        spent = clock.read()
        new = output[:, inputs["input_ids"].shape[1] :]
        return spent | {"tokens": int((new != 2).sum())}

    @torch.inference_mode()
    def score(self, job):
        """Log-likelihoods of the responses, of the head's products those that are asked for."""
        model = self.model(job["dtype"], adapted=False)
        rows = self.encoded(read(job["rows"]), job["max_length"])
        clock = Clock(self.device)
        total = 0.0
        for batch in batches(rows, job["batch_size"], job["grouped"]):
            inputs = self.padded(batch)
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
            wanted = inputs["labels"][:, 1:] != -100
            chosen = logits[wanted].float().log_softmax(-1).gather(1, inputs["labels"][:, 1:][wanted][:, None])
            total += float(chosen.double().sum())
        return clock.read() | {"tokens": sum(len(ids) for ids, _ in rows), "log_likelihood": total}

    def start(self, job):
        """Everything before the first step."""
        model = get_peft_model(self.base(job["dtype"]), LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        ))  # fmt: skip
        rows = self.encoded(read(job["rows"]), job["max_length"])
        new_optimizer(model)
        return {"tokens": sum(len(ids) for ids, _ in rows)}

    def ceiling(self, job):
        """The fastest of some matrix products, the model's shapes among them, in operations a second if all threads work."""
        best = 0.0
        for rows, inner, columns in [(2048, 576, 3072), (2048, 1536, 576), (2048, 2048, 2048), (4096, 4096, 4096)]:
            x, w = (torch.rand(shape).to(self.device, DTYPES[job["dtype"]]) for shape in [(rows, inner), (columns, inner)])
            product = torch.nn.functional.linear
            product(x, w)
            for _ in range(5):
                clock = Clock(self.device)
                # One product of a GPU takes less time than it takes to ask for it.
                repeats = 1 if self.device.type == "cpu" else 50
                for _ in range(repeats):
                    product(x, w)
                spent = clock.read()
                seconds = spent["seconds"] if self.device.type == "cuda" else spent["cpu_seconds"] / torch.get_num_threads()
                best = max(best, 2 * rows * inner * columns * repeats / seconds)
        return {"flops": best}

    def padded(self, batch):
        return {name: values.to(self.device) for name, values in padded(batch).items()}

    def peak(self):
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Clock:
    """Seconds on the wall, and of all threads' CPU time."""

    def __init__(self, device):
        self.device = device
        self.wait()
        self.started = time.perf_counter(), time.process_time()

    def wait(self):
        """Until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def read(self):
        self.wait()
        wall, cpu = self.started
        return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def new_optimizer(model):
    return torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=5e-4, weight_decay=0.0)


def batches(rows, size, grouped):
    rows = sorted(rows, key=lambda row: -len(row[0])) if grouped else random.Random(0).sample(rows, len(rows))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def padded(batch):
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), 2)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, (own, start) in enumerate(batch):
        ids[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = 1
        labels[row, start : len(own)] = ids[row, start : len(own)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train_step(model, optimizer, batch):
    model.train()
    model(**batch).loss.backward()
    trained = [value for value in model.parameters() if value.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    if optimizer is not None:
        optimizer.step()
    model.zero_grad()


def copied(state):
    return {name: value.clone() for name, value in state.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--attention", default="sdpa")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    peer = Peer(arguments.checkpoint, arguments.device, arguments.attention)
    for line in sys.stdin:
        job = json.loads(line)
        answer = getattr(peer, job["do"])(job)
        answer["peak_bytes"] = peer.peak()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
