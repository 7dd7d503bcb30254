--- Suggestions through `vim.lsp.inline_completion`, for Neovim 0.12 and newer.
---
--- Neovim asks and draws. It neither says what it draws nor asks for alternatives, so its
--- requests pass through here: the answers are noted, and one is made an explicit request.
local suggestion = require('snowcoder.suggestion')

local M = {}

local METHOD = 'textDocument/inlineCompletion'
local INVOKED = 1

local list = {} ---@type snowcoder.Suggestion[]
local index = 1
local explicit ---@type integer? which of the next answers to show; the next request is explicit

---@param bufnr integer
local function visible(bufnr)
  local namespace = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  return namespace and #vim.api.nvim_buf_get_extmarks(bufnr, namespace, 0, -1, { limit = 1 }) > 0
end

--- The suggestion on screen, if there is one.
---@return snowcoder.Suggestion?
function M.current()
  local s = list[index]
  if not s or vim.fn.pumvisible() == 1 or not visible(s.bufnr) then
    return nil
  end
  local rest = suggestion.rest(s)
  return rest and rest ~= '' and s or nil
end

local function announce()
  local s = M.current()
  if s then
    suggestion.shown(s)
  end
end

---@param step integer
local function select(step)
  index = (index - 1 + step) % #list + 1
  vim.lsp.inline_completion.select({ count = step })
  announce()
end

--- Note what Neovim asks and is answered.
---@param client vim.lsp.Client
local function observe(client)
  local request = client.request
  client.request = function(self, method, params, handler, bufnr)
    if method ~= METHOD or not handler then
      return request(self, method, params, handler, bufnr)
    end
    local place, step = suggestion.place(bufnr), explicit
    explicit = nil
    if step then
      params.context.triggerKind = INVOKED
    end
    return request(self, method, params, function(err, result, ctx)
      -- An answer that came too late, or null, leaves on screen what is there.
      if err or not result or not vim.startswith(vim.api.nvim_get_mode().mode, 'i') then
        return handler(err, result, ctx)
      end
      local items, found = {}, {}
      for _, item in ipairs(result.items or result) do
        local one = suggestion.new(client, item, place)
        if one then
          found[#found + 1] = one
          items[#items + 1] = vim.tbl_extend('force', item, { insertText = one.text })
        end
      end
      list, index = found, 1
      handler(nil, items, ctx)
      if step and step ~= 0 and #list > 1 then
        select(step)
      else
        announce()
      end
    end, bufnr)
  end
end

local observed = {} ---@type table<integer, true>

--- Show suggestions in a buffer from now on.
---@param client vim.lsp.Client
---@param _ integer
function M.attach(client, _)
  if not observed[client.id] then
    observed[client.id] = true
    observe(client)
    vim.lsp.inline_completion.enable(true, { client_id = client.id })
  end
end

--- Take a part of the suggestion on screen.
---@param measure fun(text: string): integer
function M.take(measure)
  local s = list[index]
  local rest = suggestion.rest(s) or ''
  local length = measure(rest)
  if length < #rest and not rest:sub(1, length):find('\n', 1, true) then
    -- Neovim goes on showing the rest, as it does while one types along.
    suggestion.take(s, measure)
    return
  end
  vim.lsp.inline_completion.get({
    on_accept = function()
      suggestion.take(s, measure)
      list, index = {}, 1
      return nil
    end,
  })
end

--- Take everything off the screen.
function M.hide()
  list, index, explicit = {}, 1, nil
  vim.lsp.inline_completion.get({
    on_accept = function()
      return nil
    end,
  })
end

--- Show another suggestion; the server is asked for more of them where there is only one.
---@param step integer
function M.cycle(step)
  if #list > 1 and M.current() then
    select(step)
    return
  end
  explicit = M.current() and step or 0
  vim.api.nvim_exec_autocmds('CursorMovedI', { buffer = vim.api.nvim_get_current_buf() })
end

return M
