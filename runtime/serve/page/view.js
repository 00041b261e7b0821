// What a round looks like: a question with its images, and its answers while they come and once they are there.

import { box, button, byId, copy, element, iconButton, number, seconds } from "./dom.js";
import { caption, pictures, urlOf } from "./images.js";
import { markdown } from "./markdown.js";
import { spoken, UNFINISHED } from "./conversation.js";
import { tree } from "./tree.js";

/** @typedef {import("./conversation.js").Round} Round */
/** @typedef {import("./conversation.js").Answer} Answer */

/** An image that opens large. */
export function thumbnail(hash) {
	const picture = pictures.get(hash);
	if (!picture) return element("span", { className: "hint" }, "image not kept");
	const { name, width, height } = picture;
	const [src, alt, title] = [urlOf(picture), name || "image", caption(picture)];
	const onclick = () => {
		const dialog = byId("zoom");
		Object.assign(dialog.querySelector("img"), { src, alt });
		dialog.querySelector(".caption").textContent = `${name}  ${title}`;
		dialog.showModal();
	};
	const label = `Enlarge ${alt}`;
	return element("button", { type: "button", className: "thumb", title, label, onclick }, element("img", { src, alt, width, height }));
}

/** A round's element, and how it is told of its answers. @param {Round} round */
export function roundView(round, actions) {
	const { text, images, each } = round.question;
	const change = box(
		"actions",
		iconButton("edit", "Edit the question", actions.edit),
		iconButton("delete", "Delete question and answer", actions.remove),
	);
	const asked = box(
		"question",
		!each && box("images", ...images.map(thumbnail)),
		box("asked", change, text && element("p", { className: "said" }, text)),
	);
	const views = round.answers.map((answer, i) => answerView(answer, actions, each ? [images[i]] : images, each));
	const after = box(
		"actions",
		iconButton("copy", "Copy the answer", () => copy(spoken(round))),
		iconButton("again", "Answer again", actions.again, "icon again"),
	);
	const answers = box(each ? "strip" : "", ...views.map(({ root }) => root));
	const root = element("article", { className: "round" }, asked, answers, after);
	const finish = () => {
		const busy = round.answers.some(({ state }) => UNFINISHED.includes(state));
		after.hidden = busy || round.answers.every(({ state }) => state === "failed");
		root.ariaBusy = String(busy); // it is read aloud once it is whole
	};
	finish();
	return {
		root,
		/** @param {Answer} answer */
		update(answer) {
			views[round.answers.indexOf(answer)]?.update();
			finish();
		},
	};
}

function answerView(answer, actions, images, each) {
	const body = box("body");
	const state = element("p", { className: "waiting" });
	const root = box("answer", each && thumbnail(images[0]), body, state);
	const writer = markdown(body);
	let written = 0;
	/** @type {number | undefined} */
	let clock;
	const say = () => (root.isConnected || !clock ? (state.textContent = waiting(answer, images.length)) : clearInterval(clock));

	function update() {
		const over = !UNFINISHED.includes(answer.state);
		if (answer.json) body.replaceChildren(jsonView(answer, over));
		else {
			writer.write(answer.text.slice(written));
			written = answer.text.length;
			if (over) writer.end();
		}
		clearInterval(clock);
		clock = undefined;
		if (over) return state.replaceWith(footOf(answer, actions, images.length));
		say();
		clock = setInterval(say, 1000);
	}
	update();
	return { root, update };
}

function jsonView({ text }, over) {
	const raw = element("pre", {}, element("code", {}, text));
	if (!over) return text ? raw : "";
	try {
		return box("", tree(JSON.parse(text)), element("details", {}, element("summary", {}, "JSON"), raw));
	} catch {
		return text ? raw : ""; // it was stopped before it was whole
	}
}

/** What is waited for. @param {Answer} answer */
function waiting({ state, place, began = Date.now() }, images) {
	if (state === "streaming") return "";
	if (state === "loading") return "The model is still being loaded";
	if (state === "queued") return place === 1 ? "Next in the queue" : `Number ${place} in the queue`;
	const took = Math.round((Date.now() - began) / 1000);
	const what = images > 1 ? `Looking at ${images} images` : images ? "Looking at the image" : "Reading";
	return took > 2 ? `${what}, ${took} s` : what;
}

function footOf(answer, actions, images) {
	if (!answer.error) {
		const shown = figures(answer, images).map((text) => element("li", {}, text));
		return element("ul", { className: "figures", label: "Figures" }, ...shown);
	}
	const { message, code } = answer.error;
	const locked = code === "invalid_api_key";
	const act = button(locked ? "Enter the key" : "Try again", locked ? actions.unlock : actions.again);
	return element("div", { className: "error", role: "alert" }, element("p", {}, message[0].toUpperCase() + message.slice(1)), act);
}

function figures({ state, finish, timings, usage }, images) {
	const found = [];
	if (timings) {
		if (timings.queue_ms > 200) found.push(`queue ${seconds(timings.queue_ms)}`);
		if (images) found.push(`image ${seconds(timings.vision_ms + timings.preprocess_ms)}`);
		found.push(`first token ${seconds(timings.first_token_ms)}`);
		if (timings.predicted_per_second) found.push(`${number(timings.predicted_per_second)} tokens/s`);
	}
	if (usage) {
		const { cached_tokens: cached, image_tokens: image } = usage.prompt_tokens_details ?? {};
		found.push(`${number(usage.completion_tokens)} tokens`);
		if (image) found.push(`${number(image)} image tokens`);
		if (cached) found.push(`${number(cached)} of ${number(usage.prompt_tokens)} cached`);
	}
	if (state === "stopped") found.push("stopped");
	if (finish === "length") found.push("ended at the most tokens");
	return found;
}
