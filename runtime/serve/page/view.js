// What a round looks like: a question with its images, and its answers while they come and once they are there.

import { copy, element, iconButton, number, seconds } from "./dom.js";
import { caption, pictures, urlOf } from "./images.js";
import { markdown } from "./markdown.js";
import { spoken, UNFINISHED } from "./conversation.js";
import { tree } from "./tree.js";

/** @typedef {import("./conversation.js").Round} Round */
/** @typedef {import("./conversation.js").Answer} Answer */
/** @typedef {{edit: () => void, remove: () => void, again: () => void, unlock: () => void}} Actions */

/**
 * An image that opens large.
 * @param {string} hash
 */
export function thumbnail(hash) {
  const picture = pictures.get(hash);
  if (!picture) return element("span", { className: "gone" }, "image not kept");
  const image = element("img", { src: urlOf(hash), alt: picture.name || "image", width: picture.width, height: picture.height });
  return element("button", { type: "button", className: "thumb", title: caption(picture), label: `Enlarge ${picture.name || "the image"}`, onclick: () => zoom(hash) }, image);
}

/** @param {string} hash */
function zoom(hash) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("zoom"));
  const image = /** @type {HTMLImageElement} */ (dialog.querySelector("img"));
  const picture = /** @type {import("./images.js").Picture} */ (pictures.get(hash));
  Object.assign(image, { src: urlOf(hash), alt: picture.name });
  /** @type {HTMLElement} */ (dialog.querySelector(".caption")).textContent = `${picture.name}  ${caption(picture)}`;
  dialog.showModal();
}

/**
 * A round's element, and how it is told of its answers.
 * @param {Round} round
 * @param {Actions} actions
 * @returns {{root: HTMLElement, update: (answer: Answer) => void}}
 */
export function roundView(round, actions) {
  const { question } = round;
  const asked = element(
    "div",
    { className: "question" },
    question.images.length && !question.each
      ? element("div", { className: "images" }, ...question.images.map(thumbnail))
      : null,
    question.text ? element("p", { className: "said" }, question.text) : null,
    element(
      "div",
      { className: "actions" },
      iconButton("edit", "Edit the question", actions.edit),
      iconButton("copy", "Copy the question", () => copy(question.text)),
      iconButton("delete", "Delete question and answer", actions.remove),
    ),
  );
  const views = round.answers.map((answer, i) => answerView(answer, actions, question, question.each ? question.images[i] : ""));
  const answers = element("div", { className: question.each ? "strip" : "answer-of" }, ...views.map(({ root }) => root));
  const after = element(
    "div",
    { className: "actions" },
    iconButton("copy", "Copy the answer", () => copy(spoken(round))),
    iconButton("again", "Answer again", actions.again, "icon again"),
  );
  const root = element("article", { className: "round" }, asked, answers, after);
  const finish = () => {
    const busy = round.answers.some(({ state }) => UNFINISHED.includes(state));
    after.hidden = busy || round.answers.every(({ text }) => !text);
    root.ariaBusy = String(busy); // is read aloud once it is whole
  };
  finish();
  return {
    root,
    update(answer) {
      views[round.answers.indexOf(answer)]?.update();
      finish();
    },
  };
}

/**
 * @param {Answer} answer
 * @param {Actions} actions
 * @param {import("./conversation.js").Question} question
 * @param {string} hash of the image that it is about, in a strip
 */
function answerView(answer, actions, question, hash) {
  const body = element("div", { className: "body" });
  const state = element("p", { className: "waiting" });
  const root = element("div", { className: "answer" }, hash ? thumbnail(hash) : null, body, state);
  let written = 0;
  let writer = markdown(body);
  /** @type {number | undefined} */
  let clock;

  function update() {
    const over = !UNFINISHED.includes(answer.state);
    if (answer.json) body.replaceChildren(jsonView(answer, over));
    else {
      writer.write(answer.text.slice(written));
      written = answer.text.length;
      if (over) writer.end();
    }
    clearInterval(clock);
    if (over) state.replaceWith(footOf(answer, question, actions));
    else {
      const say = () => (state.textContent = waiting(answer, question, hash));
      say();
      clock = setInterval(() => (root.isConnected ? say() : clearInterval(clock)), 1000);
    }
  }
  update();
  return { root, update };
}

/**
 * @param {Answer} answer
 * @param {boolean} over
 */
function jsonView(answer, over) {
  const raw = element("pre", {}, element("code", {}, answer.text));
  if (!over || !answer.text) return answer.text ? raw : "";
  try {
    const shown = tree(JSON.parse(answer.text));
    return element("div", {}, shown, element("details", { className: "raw" }, element("summary", {}, "JSON"), raw));
  } catch {
    return raw; // it was stopped before it was whole
  }
}

/**
 * What is waited for.
 * @param {Answer} answer
 * @param {import("./conversation.js").Question} question
 * @param {string} hash
 */
function waiting(answer, { images }, hash) {
  if (answer.state === "streaming") return "";
  if (answer.state === "loading") return "The model is still being loaded";
  if (answer.state === "queued") return answer.place === 1 ? "Next in the queue" : `Number ${answer.place} in the queue`;
  const count = hash ? 1 : images.length;
  const took = Math.round((Date.now() - (answer.began ?? Date.now())) / 1000);
  const what = count ? `Looking at ${count === 1 ? "the image" : `${count} images`}` : "Reading";
  return took > 2 ? `${what}, ${took} s` : what;
}

/**
 * What stands under an answer: how it went.
 * @param {Answer} answer
 * @param {import("./conversation.js").Question} question
 * @param {Actions} actions
 */
function footOf(answer, question, actions) {
  if (answer.state !== "failed" || !answer.error) return element("ul", { className: "figures", label: "Figures" }, ...figures(answer, question).map((text) => element("li", {}, text)));
  const { message, code } = answer.error;
  const locked = code === "invalid_api_key";
  const act = element("button", { type: "button", onclick: locked ? actions.unlock : actions.again }, locked ? "Enter the key" : "Try again");
  return element("div", { className: "error", role: "alert" }, element("p", {}, message[0].toUpperCase() + message.slice(1)), act);
}

/**
 * @param {Answer} answer
 * @param {import("./conversation.js").Question} question
 */
function figures({ state, finish, timings, usage }, question) {
  const found = [];
  if (state === "stopped") found.push("Stopped");
  if (finish === "length") found.push("Ended at the most tokens");
  if (timings) {
    if (timings.queue_ms > 200) found.push(`queue ${seconds(timings.queue_ms)}`);
    if (question.images.length) found.push(`image ${seconds(timings.vision_ms + timings.preprocess_ms)}`);
    found.push(`first token ${seconds(timings.first_token_ms)}`);
    if (timings.predicted_per_second) found.push(`${number(timings.predicted_per_second)} tokens/s`);
  }
  if (usage) {
    const { cached_tokens: cached, image_tokens: image } = usage.prompt_tokens_details ?? {};
    found.push(`${number(usage.completion_tokens)} tokens`);
    if (image) found.push(`${number(image)} of images`);
    if (cached) found.push(`${number(cached)} of ${number(usage.prompt_tokens)} cached`);
  }
  return found;
}
