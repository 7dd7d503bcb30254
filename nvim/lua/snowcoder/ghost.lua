--- Ghost text of our own, for Neovim 0.11, which has no `vim.lsp.inline_completion`.
local suggestion = require('snowcoder.suggestion')

local M = {}

local METHOD = 'textDocument/inlineCompletion'
local INVOKED, AUTOMATIC = 1, 2
--- Milliseconds without a key before a request; the server supersedes what is older.
local DEBOUNCE = 40
local namespace = vim.api.nvim_create_namespace('snowcoder')

local list = {} ---@type snowcoder.Suggestion[]
local index = 1
local generation = 0 -- counts requests wanted: an older one is neither sent nor drawn
local pending ---@type {client: vim.lsp.Client, id: integer}?

local function erase()
  for _, bufnr in ipairs(vim.api.nvim_list_bufs()) do
    if vim.api.nvim_buf_is_loaded(bufnr) then
      vim.api.nvim_buf_clear_namespace(bufnr, namespace, 0, -1)
    end
  end
end

local function inserting()
  return vim.startswith(vim.api.nvim_get_mode().mode, 'i')
end

--- What is drawn of a text: tabs as wide as the buffer's, brackets already there left out.
---@param s snowcoder.Suggestion
---@param rest string
---@param replaced integer
---@return string[]
local function ghost_lines(s, rest, replaced)
  local place = suggestion.place(s.bufnr)
  local there = place.line:sub(place.col + 1, place.col + replaced)
  if there ~= '' and vim.endswith(rest, there) then
    rest = rest:sub(1, #rest - #there)
  end
  local tab = string.rep(' ', vim.bo[s.bufnr].tabstop)
  return vim.split((rest:gsub('\t', tab)), '\n', { plain = true })
end

local function draw()
  erase()
  local s = list[index]
  if not s then
    return
  end
  local rest, replaced = suggestion.rest(s)
  if not rest or rest == '' then
    list, index = {}, 1
    return
  end
  if not inserting() or vim.fn.pumvisible() == 1 then
    return
  end
  local lines = ghost_lines(s, rest, replaced)
  local below = {}
  for i = 2, #lines do
    below[#below + 1] = { { lines[i], 'SnowcoderGhost' } }
  end
  local first = { { lines[1], 'SnowcoderGhost' } }
  if #list > 1 then
    first[2] = { (' (%d/%d)'):format(index, #list), 'SnowcoderGhost' }
  end
  vim.api.nvim_buf_set_extmark(s.bufnr, namespace, s.row, suggestion.place(s.bufnr).col, {
    virt_text = first,
    virt_text_pos = 'inline',
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
  suggestion.shown(s)
end

local function cancel()
  generation = generation + 1
  if pending then
    if not pending.client:is_stopped() then
      pending.client:cancel_request(pending.id)
    end
    pending = nil
  end
end

--- Ask the server for the cursor's place.
---@param client vim.lsp.Client
---@param bufnr integer
---@param kind integer
---@param step? integer which of the answers to show, counted from the first
local function request(client, bufnr, kind, step)
  cancel()
  local wanted = generation
  local place = suggestion.place(bufnr)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.context = { triggerKind = kind }
  local sent, id = client:request(METHOD, params, function(err, result)
    if wanted ~= generation then
      return
    end
    pending = nil
    -- Null: superseded; what is on screen stays.
    if err or not result or not inserting() then
      return
    end
    list, index = {}, 1
    for _, item in ipairs(result.items or result) do
      list[#list + 1] = suggestion.new(client, item, place)
    end
    if #list > 0 and step then
      index = step % #list + 1
    end
    draw()
  end, bufnr)
  pending = sent and id and { client = client, id = id } or nil
end

---@param bufnr integer
---@return vim.lsp.Client?
local function client_of(bufnr)
  return vim.lsp.get_clients({ name = 'snowcoder', bufnr = bufnr })[1]
end

local function update(bufnr)
  draw()
  generation = generation + 1
  local wanted = generation
  vim.defer_fn(function()
    local client = client_of(bufnr)
    if wanted == generation and client and inserting() then
      if vim.api.nvim_get_current_buf() == bufnr and vim.fn.pumvisible() == 0 then
        request(client, bufnr, AUTOMATIC)
      end
    end
  end, DEBOUNCE)
end

--- Show suggestions in a buffer from now on.
---@param _ vim.lsp.Client
---@param bufnr integer
function M.attach(_, bufnr)
  local group = vim.api.nvim_create_augroup('snowcoder.ghost.' .. bufnr, {})
  local events = { 'InsertEnter', 'CursorMovedI', 'TextChangedI', 'TextChangedP', 'CompleteDone' }
  vim.api.nvim_create_autocmd(events, {
    group = group,
    buffer = bufnr,
    callback = function()
      update(bufnr)
    end,
  })
  vim.api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, {
    group = group,
    buffer = bufnr,
    callback = M.hide,
  })
end

--- The suggestion on screen, if there is one.
---@return snowcoder.Suggestion?
function M.current()
  local s = list[index]
  if not s or vim.fn.pumvisible() == 1 or not inserting() then
    return nil
  end
  local rest = suggestion.rest(s)
  return rest and rest ~= '' and s or nil
end

--- Take a part of the suggestion on screen.
---@param measure fun(text: string): integer
function M.take(measure)
  local s = list[index]
  cancel()
  local more = suggestion.take(s, measure)
  list, index = more and { s } or {}, 1
  draw()
end

--- Take everything off the screen.
function M.hide()
  cancel()
  list, index = {}, 1
  erase()
end

--- Show another suggestion; the server is asked for more of them where there is only one.
---@param step integer
function M.cycle(step)
  if #list > 1 then
    index = (index - 1 + step) % #list + 1
    draw()
    return
  end
  local bufnr = vim.api.nvim_get_current_buf()
  local client = client_of(bufnr)
  if client and inserting() then
    request(client, bufnr, INVOKED, M.current() and step or nil)
  end
end

return M
