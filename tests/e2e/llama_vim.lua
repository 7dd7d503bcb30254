-- Sends what llama.vim sends, the way it does: curl, the body on its standard input. The plugin
-- itself is in no package registry.
local M = {}

-- Its defaults.
local LINES_BEFORE, LINES_AFTER = 256, 64
local FIELDS = {
  'content',
  'timings/prompt_n',
  'timings/prompt_ms',
  'timings/prompt_per_token_ms',
  'timings/prompt_per_second',
  'timings/predicted_n',
  'timings/predicted_ms',
  'timings/predicted_per_token_ms',
  'timings/predicted_per_second',
  'truncated',
  'tokens_cached',
}

M.url, M.key = nil, ''
M.answer, M.code = nil, nil
local job = nil

local function post(body, on_exit)
  local command = { 'curl', '--silent', '--no-buffer', '--request', 'POST', '--url', M.url }
  vim.list_extend(command, { '--header', 'Content-Type: application/json', '--data', '@-' })
  -- Also sent where there is no key.
  vim.list_extend(command, { '--header', 'Authorization: Bearer ' .. M.key })
  local output = nil
  local started = vim.fn.jobstart(command, {
    stdout_buffered = true,
    on_stdout = function(_, data)
      output = table.concat(data, '\n')
    end,
    on_exit = function(_, code)
      on_exit(code, output)
    end,
  })
  vim.fn.chansend(started, vim.json.encode(body))
  vim.fn.chanclose(started, 'stdin')
  return started
end

local function around_cursor()
  local row, column = unpack(vim.api.nvim_win_get_cursor(0))
  local line = vim.api.nvim_get_current_line()
  local before = vim.api.nvim_buf_get_lines(0, math.max(0, row - 1 - LINES_BEFORE), row - 1, false)
  local after = vim.api.nvim_buf_get_lines(0, row, row + LINES_AFTER, false)
  local left, right = line:sub(1, column), line:sub(column + 1)
  if line:match('^%s*$') then
    left, right = '', ''
  end
  return {
    input_prefix = table.concat(before, '\n') .. '\n',
    prompt = left,
    input_suffix = right .. '\n' .. table.concat(after, '\n') .. '\n',
    n_indent = #left:match('^%s*'),
  }
end

-- Asks for a suggestion at the cursor; a request under way is given up.
function M.ask(extra, milliseconds)
  if job then
    vim.fn.jobstop(job)
  end
  M.answer, M.code = nil, nil
  local body = vim.tbl_extend('error', around_cursor(), {
    input_extra = extra,
    n_predict = 128,
    stop = {},
    top_k = 40,
    top_p = 0.9,
    stream = false,
    samplers = { 'top_k', 'top_p', 'infill' },
    cache_prompt = true,
    t_max_prompt_ms = 500,
    t_max_predict_ms = milliseconds,
    response_fields = FIELDS,
  })
  local mine
  mine = post(body, function(code, output)
    if job == mine then
      M.answer, M.code = output, code
    end
  end)
  job = mine
end

-- Tells the server of code elsewhere, which shall be in its cache for the next request.
function M.warm_up(extra)
  M.answer, M.code = nil, nil
  post({
    input_prefix = '',
    input_suffix = '',
    input_extra = extra,
    prompt = '',
    n_predict = 0,
    temperature = 0.0,
    stream = false,
    samplers = {},
    cache_prompt = true,
    t_max_prompt_ms = 1,
    t_max_predict_ms = 1,
    response_fields = { '' },
  }, function(code, output)
    M.answer, M.code = output, code
  end)
end

-- Puts the answer's text at the cursor, as its key for accepting does.
function M.accept()
  local lines = vim.split(vim.json.decode(M.answer).content, '\n')
  while lines[#lines] == '' do
    table.remove(lines)
  end
  vim.api.nvim_put(lines, 'c', false, true)
end

return M
