/*-------------------------------------------------------------------------
 *
 * entry.c
 *	  An entry of the log in memory: from the row, its order, its faults.
 *
 *	  The log takes everything that has the right column types; what a row
 *	  means is judged here, when it is applied.  What depends on the rules of
 *	  identity (is there a usable identifier?) is judged by identity/.
 *
 *	  Entries are ordered by (at, tie) everywhere: at is the effective time,
 *	  tie is source, \001, message id, compared bytewise.  The database's
 *	  collation has no say in it, so the order is the same after a restore
 *	  elsewhere, and can be recomputed in SQL with COLLATE "C".
 *
 * IDENTIFICATION
 *	  src/collect/entry.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "collect/collect.h"
#include "collect/extract.h"

static const struct
{
	const char *name;
	CdpEntryType type;
}			entry_types[] =
{
	{"track", CDP_ENTRY_TRACK},
	{"identify", CDP_ENTRY_IDENTIFY},
	{"page", CDP_ENTRY_PAGE},
	{"screen", CDP_ENTRY_SCREEN},
	{"group", CDP_ENTRY_GROUP},
	{"alias", CDP_ENTRY_ALIAS},
	{"merge", CDP_ENTRY_MERGE},
	{"split", CDP_ENTRY_SPLIT},
	{"undo", CDP_ENTRY_UNDO},
	{"detach", CDP_ENTRY_DETACH},
	{"release", CDP_ENTRY_RELEASE},
	{"leave", CDP_ENTRY_LEAVE},
	{"erase", CDP_ENTRY_ERASE},
	{"consent", CDP_ENTRY_CONSENT}
};

CdpEntryType
CdpEntryTypeFromText(const text *type)
{
	const char *s = VARDATA_ANY(type);
	int			len = VARSIZE_ANY_EXHDR(type);
	int			i;

	for (i = 0; i < lengthof(entry_types); i++)
		if (strlen(entry_types[i].name) == len &&
			memcmp(entry_types[i].name, s, len) == 0)
			return entry_types[i].type;
	return CDP_ENTRY_UNKNOWN;
}

/*
 * When an entry counts: when it happened, unless it claims to come from the
 * future.  An infinite time is kept as it is, for the check to refuse.
 */
TimestampTz
CdpEffectiveAt(bool has_occurred_at, TimestampTz occurred_at,
			   TimestampTz received_at)
{
	if (!has_occurred_at)
		return received_at;
	if (TIMESTAMP_NOT_FINITE(occurred_at))
		return occurred_at;
	if (occurred_at > received_at &&
		(TIMESTAMP_IS_NOBEGIN(received_at) ||
		 (uint64) occurred_at - (uint64) received_at > CDP_MAX_AHEAD))
		return received_at;
	return occurred_at;
}

/*
 * tie = source, \001, message id.
 */
text *
CdpMakeTie(const text *source, const text *message_id)
{
	int			slen = VARSIZE_ANY_EXHDR(source);
	int			mlen = VARSIZE_ANY_EXHDR(message_id);
	text	   *tie = (text *) palloc(VARHDRSZ + slen + 1 + mlen);
	char	   *p = VARDATA(tie);

	SET_VARSIZE(tie, VARHDRSZ + slen + 1 + mlen);
	memcpy(p, VARDATA_ANY(source), slen);
	p[slen] = '\001';
	memcpy(p + slen + 1, VARDATA_ANY(message_id), mlen);
	return tie;
}

/*
 * An entry without message id has its number in the log instead, in a fixed
 * width: of two at the same instant the one that was logged later is the later
 * one.
 */
static text *
make_tie(const text *source, const text *message_id, int64 id)
{
	union
	{
		text		header;
		char		bytes[VARHDRSZ + 24];
	}			number;

	if (message_id == NULL)
	{
		int			len = snprintf(VARDATA(&number.header), 24, "#%019lld",
								   (long long) id);

		SET_VARSIZE(&number.header, VARHDRSZ + len);
		message_id = &number.header;
	}
	return CdpMakeTie(source, message_id);
}

void
CdpEntryFromRow(CdpEntry *entry, Datum *values, bool *isnull)
{
	static const bool byref[CDP_EVENTS_NATTS] = {
		[CDP_EVENTS_MESSAGE_ID] = true,
		[CDP_EVENTS_SOURCE] = true,
		[CDP_EVENTS_TYPE] = true,
		[CDP_EVENTS_EVENT] = true,
		[CDP_EVENTS_IDENTIFIERS] = true,
		[CDP_EVENTS_PROPERTIES] = true,
		[CDP_EVENTS_CONTEXT] = true
	};
	int			i;

	memset(entry, 0, sizeof(CdpEntry));
	for (i = 0; i < CDP_EVENTS_NATTS; i++)
	{
		entry->isnull[i] = isnull[i];
		if (isnull[i])
			continue;
		if (byref[i])
			entry->values[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i]));
		else
			entry->values[i] = values[i];
	}

	entry->id = DatumGetInt64(entry->values[CDP_EVENTS_ID]);
	entry->xid = DatumGetInt64(entry->values[CDP_EVENTS_XID]);
	entry->incarnation = DatumGetInt32(entry->values[CDP_EVENTS_INCARNATION]);
	entry->received_at = DatumGetTimestampTz(entry->values[CDP_EVENTS_RECEIVED_AT]);
	entry->at = CdpEffectiveAt(!isnull[CDP_EVENTS_OCCURRED_AT],
							   isnull[CDP_EVENTS_OCCURRED_AT] ? 0 :
							   DatumGetTimestampTz(values[CDP_EVENTS_OCCURRED_AT]),
							   entry->received_at);
	entry->values[CDP_EVENTS_OCCURRED_AT] = TimestampTzGetDatum(entry->at);
	entry->isnull[CDP_EVENTS_OCCURRED_AT] = false;

	/* a row that was loaded with source NULL belongs to the source '' */
	if (isnull[CDP_EVENTS_SOURCE])
	{
		entry->values[CDP_EVENTS_SOURCE] = PointerGetDatum(cstring_to_text(""));
		entry->isnull[CDP_EVENTS_SOURCE] = false;
	}
	entry->source = DatumGetTextPP(entry->values[CDP_EVENTS_SOURCE]);
	if (!isnull[CDP_EVENTS_MESSAGE_ID])
		entry->message_id = DatumGetTextPP(entry->values[CDP_EVENTS_MESSAGE_ID]);
	if (!isnull[CDP_EVENTS_TYPE])
		entry->type = CdpEntryTypeFromText(DatumGetTextPP(entry->values[CDP_EVENTS_TYPE]));
	if (!isnull[CDP_EVENTS_EVENT])
		entry->event = DatumGetTextPP(entry->values[CDP_EVENTS_EVENT]);
	if (!isnull[CDP_EVENTS_IDENTIFIERS])
		entry->identifiers = DatumGetArrayTypeP(entry->values[CDP_EVENTS_IDENTIFIERS]);
	if (!isnull[CDP_EVENTS_PROPERTIES])
		entry->properties = DatumGetJsonbP(entry->values[CDP_EVENTS_PROPERTIES]);
	entry->tie = make_tie(entry->source, entry->message_id, entry->id);
}

int
CdpOrderCompare(TimestampTz at_a, const text *tie_a,
				TimestampTz at_b, const text *tie_b)
{
	int			len_a;
	int			len_b;
	int			cmp;

	if (at_a != at_b)
		return at_a < at_b ? -1 : 1;
	len_a = VARSIZE_ANY_EXHDR(tie_a);
	len_b = VARSIZE_ANY_EXHDR(tie_b);
	cmp = memcmp(VARDATA_ANY(tie_a), VARDATA_ANY(tie_b), Min(len_a, len_b));
	if (cmp != 0)
		return cmp;
	return len_a < len_b ? -1 : (len_a > len_b ? 1 : 0);
}

int
CdpEntryCompare(const CdpEntry *a, const CdpEntry *b)
{
	return CdpOrderCompare(a->at, a->tie, b->at, b->tie);
}

static bool
reject(CdpEntry *entry, int sqlstate, const char *reason, const char *detail)
{
	entry->reject_reason = reason;
	entry->reject_detail = detail;
	entry->reject_sqlstate = sqlstate;
	return false;
}

/*
 * Key of an entry's properties that must be a string with something in it, and
 * not longer than a message id.
 */
static bool
has_text_property(const Jsonb *properties, const char *key)
{
	JsonbValue	value;

	if (properties == NULL || !JB_ROOT_IS_OBJECT(properties))
		return false;
	if (getKeyJsonValueFromContainer((JsonbContainer *) &properties->root,
									 key, strlen(key), &value) == NULL)
		return false;
	return value.type == jbvString && value.val.string.len > 0 &&
		value.val.string.len <= CDP_MAX_MESSAGE_ID;
}

/*
 * A consent entry: {"purpose": …, "state": …, "expires": …}, or
 * {"preferences": {…}}.
 */
static bool
check_consent(CdpEntry *entry)
{
	JsonbContainer *properties = entry->properties ? &entry->properties->root : NULL;
	JsonbValue	value;
	TimestampTz expires;

	if (properties != NULL && JsonContainerIsObject(properties) &&
		getKeyJsonValueFromContainer(properties, "preferences", strlen("preferences"), &value) != NULL &&
		value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
		return true;
	if (!has_text_property(entry->properties, "purpose"))
		return reject(entry, ERRCODE_NULL_VALUE_NOT_ALLOWED,
					  "consent without purpose",
					  "Property \"purpose\" must be the name of a purpose.");
	if (getKeyJsonValueFromContainer(properties, "state", strlen("state"), &value) == NULL ||
		CdpConsentWordFromText(&value) == 0)
		return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
					  "consent without state",
					  "Property \"state\" must be granted, denied or unset.");
	if (getKeyJsonValueFromContainer(properties, "expires", strlen("expires"), &value) != NULL &&
		value.type != jbvNull &&
		(value.type != jbvString ||
		 !CdpParseIsoTime(value.val.string.val, value.val.string.len, &expires)))
		return reject(entry, ERRCODE_INVALID_DATETIME_FORMAT,
					  "consent expires at no time",
					  "Property \"expires\" must be a time like 2027-01-31T00:00:00Z.");
	return true;
}

/*
 * The letter of the state that a consent entry speaks of; 0 for anything else.
 */
char
CdpConsentWordFromText(const JsonbValue *state)
{
	static const char *const words[] = {"granted", "denied", "unset"};

	for (int i = 0; state->type == jbvString && i < lengthof(words); i++)
		if (state->val.string.len == strlen(words[i]) &&
			memcmp(state->val.string.val, words[i], state->val.string.len) == 0)
			return words[i][0];
	return 0;
}

bool
CdpEntryCheck(CdpEntry *entry)
{
	int			nidentifiers = 0;

	if (entry->type == CDP_ENTRY_UNKNOWN)
	{
		if (entry->isnull[CDP_EVENTS_TYPE])
			return reject(entry, ERRCODE_NULL_VALUE_NOT_ALLOWED,
						  "type is missing", NULL);
		return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
					  "unknown type",
					  psprintf("Type \"%s\" is none of track, identify, page, screen, group, leave, alias, consent, merge, split, undo, detach, release, erase.",
							   TextDatumGetCString(entry->values[CDP_EVENTS_TYPE])));
	}
	/* both are keys of indexes, which have a limit */
	if (VARSIZE_ANY_EXHDR(entry->source) > CDP_MAX_MESSAGE_ID ||
		(entry->message_id != NULL &&
		 VARSIZE_ANY_EXHDR(entry->message_id) > CDP_MAX_MESSAGE_ID))
		return reject(entry, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
					  "message id too long",
					  psprintf("Source and message id can have %d bytes each.",
							   CDP_MAX_MESSAGE_ID));
	if (TIMESTAMP_NOT_FINITE(entry->at))
		return reject(entry, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
					  "time is infinite", NULL);

	if (entry->identifiers != NULL)
	{
		nidentifiers = ArrayGetNItems(ARR_NDIM(entry->identifiers),
									  ARR_DIMS(entry->identifiers));
		if (ARR_NDIM(entry->identifiers) > 1)
			return reject(entry, ERRCODE_ARRAY_SUBSCRIPT_ERROR,
						  "identifiers have more than one dimension", NULL);
	}

	switch (entry->type)
	{
		case CDP_ENTRY_TRACK:
			if (entry->event == NULL || VARSIZE_ANY_EXHDR(entry->event) == 0)
				return reject(entry, ERRCODE_NULL_VALUE_NOT_ALLOWED,
							  "track without event", NULL);
			break;
		case CDP_ENTRY_IDENTIFY:
			if (entry->properties != NULL && !JB_ROOT_IS_OBJECT(entry->properties))
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  "traits are not an object", NULL);
			break;
		case CDP_ENTRY_CONSENT:
			if (!check_consent(entry))
				return false;
			break;
		case CDP_ENTRY_MERGE:
		case CDP_ENTRY_SPLIT:
			if (nidentifiers != 2)
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  entry->type == CDP_ENTRY_MERGE ?
							  "merge needs two identifiers" :
							  "split needs two identifiers",
							  psprintf("The entry has %d.", nidentifiers));
			break;
		case CDP_ENTRY_DETACH:
			if (nidentifiers != 1)
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  "detach needs one identifier",
							  psprintf("The entry has %d.", nidentifiers));
			break;
		case CDP_ENTRY_UNDO:
			if (!has_text_property(entry->properties, "entry"))
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  "undo names no entry",
							  "Property \"entry\" must be the message id of an entry of the same source.");
			break;
		case CDP_ENTRY_RELEASE:
			if (!has_text_property(entry->properties, "entry"))
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  "release names no entry",
							  "Property \"entry\" must be the message id of an entry of the same source.");
			break;
		case CDP_ENTRY_ERASE:
			/* whom it is about is not in the log */
			if (nidentifiers > 0)
				return reject(entry, ERRCODE_INVALID_PARAMETER_VALUE,
							  "erase names an identifier",
							  "Entries of this type are made by cdp.erase().");
			break;
		default:
			break;
	}

	if (!CDP_ENTRY_NAMES_NOBODY(entry->type) && nidentifiers == 0)
		return reject(entry, ERRCODE_NULL_VALUE_NOT_ALLOWED,
					  "no usable identifier", "The entry has no identifier at all.");
	return true;
}
