// From the cluster's answer to a Redis reply.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "statemachine/batch.h"
#include "tools/proxy/request.h"
#include "tools/proxy/resp_writer.h"

namespace annulus::proxy {

/// Writes the reply of one command; not for ReplyShape::kTransaction.
void render_reply(ReplyShape shape, statemachine::CommandStatus status,
                  std::span<const std::byte> reply, RespWriter& writer);

/// The error text of a status that no shape has a better answer for.
std::string_view error_text(statemachine::CommandStatus status);

}  // namespace annulus::proxy
