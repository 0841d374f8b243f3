// The official Node SDKs of OpenAI and Anthropic, as their guides use them. Prints what they saw as JSON.
import Anthropic from '@anthropic-ai/sdk';
import OpenAI, { AzureOpenAI } from 'openai';

const { BURSAR_URL: url, BURSAR_KEY: key } = process.env;
const messages = [{ role: 'user', content: 'Hello' }];

async function refusal(ask) {
  try {
    await ask();
  } catch (error) {
    return { class: error.constructor.name, status: error.status, code: error.code ?? error.error?.error?.code };
  }
  return { class: 'none' };
}

async function openai() {
  const client = (apiKey) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
  const ours = client(key);
  const answer = await ours.chat.completions.create({ model: 'gpt-4o-mini', messages });
  let text = '';
  for await (const chunk of await ours.chat.completions.create({ model: 'gpt-4o-mini', messages, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? '';
  }
  const tools = [{ type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } } }];
  const called = await ours.chat.completions.create({ model: 'gpt-4o-mini', messages, tools, tool_choice: 'required' });
  const vectors = await ours.embeddings.create({ model: 'text-embedding-3-small', input: ['one', 'two'], dimensions: 16 });
  return {
    chat: answer.choices[0].message.content,
    usage: answer.usage,
    stream: text,
    tool: called.choices[0].message.tool_calls[0].function.name,
    embeddings: vectors.data.map((row) => row.embedding.length),
    refusal: await refusal(() => client('bsr_nobody').chat.completions.create({ model: 'gpt-4o-mini', messages })),
  };
}

async function anthropic() {
  const client = (apiKey) => new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
  const ours = client(key);
  const asked = { model: 'claude-haiku-4-5', max_tokens: 64, messages };
  const answer = await ours.messages.create(asked);
  const streamed = await ours.messages.stream(asked).finalMessage();
  const tools = [{ name: 'weather', input_schema: { type: 'object', properties: { city: { type: 'string' } } } }];
  const called = await ours.messages.create({ ...asked, tools, tool_choice: { type: 'any' } });
  return {
    chat: answer.content[0].text,
    usage: answer.usage,
    stream: streamed.content[0].text,
    tool: called.content.find((block) => block.type === 'tool_use').name,
    refusal: await refusal(() => client('bsr_nobody').messages.create(asked)),
  };
}

async function azure() {
  const ours = new AzureOpenAI({ endpoint: url, apiKey: key, apiVersion: '2024-10-21', maxRetries: 0 });
  const answer = await ours.chat.completions.create({ model: 'chat-prod', messages });
  const refused = await refusal(() => ours.chat.completions.create({ model: 'unmapped', messages }));
  return { chat: answer.choices[0].message.content, model: answer.model, refusal: refused };
}

console.log(JSON.stringify({ openai: await openai(), anthropic: await anthropic(), azure: await azure() }));
