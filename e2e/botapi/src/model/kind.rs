//! The types of updates: their names, how long the server keeps them, and which ones come in order.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The type of an update; it decides how long Telegram keeps it, and whether a bot gets it without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are Telegram's: https://core.telegram.org/bots/api#update")]
pub enum Kind {
    #[default]
    Message,
    EditedMessage,
    ChannelPost,
    EditedChannelPost,
    InlineQuery,
    ChosenInlineResult,
    CallbackQuery,
    ShippingQuery,
    PreCheckoutQuery,
    Poll,
    PollAnswer,
    MyChatMember,
    /// Off unless `allowed_updates` names it.
    ChatMember,
    ChatJoinRequest,
    ChatBoost,
    RemovedChatBoost,
    /// Off unless `allowed_updates` names it.
    MessageReaction,
    /// Off unless `allowed_updates` names it.
    MessageReactionCount,
    BusinessConnection,
    BusinessMessage,
    EditedBusinessMessage,
    DeletedBusinessMessages,
    PurchasedPaidMedia,
}

const DAY: Duration = Duration::from_secs(86_400);

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Message,
        Self::EditedMessage,
        Self::ChannelPost,
        Self::EditedChannelPost,
        Self::InlineQuery,
        Self::ChosenInlineResult,
        Self::CallbackQuery,
        Self::ShippingQuery,
        Self::PreCheckoutQuery,
        Self::Poll,
        Self::PollAnswer,
        Self::MyChatMember,
        Self::ChatMember,
        Self::ChatJoinRequest,
        Self::ChatBoost,
        Self::RemovedChatBoost,
        Self::MessageReaction,
        Self::MessageReactionCount,
        Self::BusinessConnection,
        Self::BusinessMessage,
        Self::EditedBusinessMessage,
        Self::DeletedBusinessMessages,
        Self::PurchasedPaidMedia,
    ];

    /// Its name in `allowed_updates` and in an update.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::EditedMessage => "edited_message",
            Self::ChannelPost => "channel_post",
            Self::EditedChannelPost => "edited_channel_post",
            Self::InlineQuery => "inline_query",
            Self::ChosenInlineResult => "chosen_inline_result",
            Self::CallbackQuery => "callback_query",
            Self::ShippingQuery => "shipping_query",
            Self::PreCheckoutQuery => "pre_checkout_query",
            Self::Poll => "poll",
            Self::PollAnswer => "poll_answer",
            Self::MyChatMember => "my_chat_member",
            Self::ChatMember => "chat_member",
            Self::ChatJoinRequest => "chat_join_request",
            Self::ChatBoost => "chat_boost",
            Self::RemovedChatBoost => "removed_chat_boost",
            Self::MessageReaction => "message_reaction",
            Self::MessageReactionCount => "message_reaction_count",
            Self::BusinessConnection => "business_connection",
            Self::BusinessMessage => "business_message",
            Self::EditedBusinessMessage => "edited_business_message",
            Self::DeletedBusinessMessages => "deleted_business_messages",
            Self::PurchasedPaidMedia => "purchased_paid_media",
        }
    }

    /// How long the server keeps it (`Client.cpp`, the calls of `add_update`).
    pub fn lifetime(self) -> Duration {
        match self {
            Self::InlineQuery => Duration::from_secs(30),
            Self::CallbackQuery | Self::ShippingQuery | Self::PreCheckoutQuery => Duration::from_secs(150),
            Self::ChosenInlineResult => Duration::from_secs(600),
            _ => DAY,
        }
    }

    /// Whether a bot that never sent `allowed_updates` gets it.
    pub fn by_default(self) -> bool {
        !matches!(self, Self::ChatMember | Self::MessageReaction | Self::MessageReactionCount)
    }

    /// The class of updates of one chat (or user) that a webhook gets one after the other.
    pub(crate) fn lane(self) -> u8 {
        match self {
            Self::Message | Self::EditedMessage | Self::ChannelPost | Self::EditedChannelPost => 0,
            Self::InlineQuery => 1,
            Self::ChosenInlineResult => 2,
            Self::CallbackQuery => 3,
            Self::ShippingQuery | Self::PreCheckoutQuery => 4,
            Self::MyChatMember => 5,
            Self::ChatMember | Self::ChatJoinRequest => 6,
            Self::ChatBoost | Self::RemovedChatBoost => 7,
            Self::MessageReaction => 8,
            Self::MessageReactionCount => 9,
            Self::BusinessConnection => 10,
            Self::BusinessMessage | Self::EditedBusinessMessage | Self::DeletedBusinessMessages => 11,
            Self::PurchasedPaidMedia => 12,
            Self::Poll | Self::PollAnswer => 13,
        }
    }
}
