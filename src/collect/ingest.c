/*-------------------------------------------------------------------------
 *
 * ingest.c
 *	  cdp.ingest(): payloads of the Segment and RudderStack libraries.
 *
 *	  One payload, an array of them, or a batch body.  Each payload is judged
 *	  by itself and none can harm its neighbours: nothing here raises an error
 *	  for what a payload says; what cannot be taken goes to cdp.rejected.  The
 *	  good ones are appended by one statement.
 *
 *	  Times: timestamp; without it received - (sentAt - originalTimestamp),
 *	  where "received" is the clock of whoever took the request sent at
 *	  sentAt.  That is us, unless the payload says receivedAt: then another
 *	  collector has had it before, perhaps years ago, and its clock is the one
 *	  to which sentAt compares.  The entry's received_at is ours in any case.
 *
 * IDENTIFICATION
 *	  src/collect/ingest.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

#include "cdp.h"
#include "collect/ingest.h"

PG_FUNCTION_INFO_V1(cdp_ingest);

/* How many errors the result lists; cdp.rejected has them all. */
#define MAX_LISTED_ERRORS	100

/* Columns of the rows to append. */
enum
{
	ROW_MESSAGE_ID,
	ROW_SOURCE,
	ROW_TYPE,
	ROW_EVENT,
	ROW_IDENTIFIERS,
	ROW_PROPERTIES,
	ROW_CONTEXT,
	ROW_OCCURRED_AT,
	ROW_RECEIVED_AT,
	ROW_NATTS
};

#define ROWS_NAME	"cdp_payloads"

static SPIPlanPtr insert_plan = NULL;
static Oid	insert_array_type = InvalidOid;
static SPIPlanPtr reject_plan = NULL;

static JsonbValue *
either_key(JsonbContainer *container, const char *camel, const char *snake,
		   JsonbValue *res)
{
	JsonbValue *value = CdpJsonKey(container, camel, res);

	return value ? value : CdpJsonKey(container, snake, res);
}

/*
 * A time of the payload.  False when there is something that is no time.
 */
static bool
read_time(JsonbContainer *payload, const char *camel, const char *snake,
		  bool *present, TimestampTz *at, CdpRefusal *refusal)
{
	JsonbValue	value;

	*present = false;
	if (either_key(payload, camel, snake, &value) == NULL)
		return true;
	if (value.type != jbvString ||
		!CdpParseIsoTime(value.val.string.val, value.val.string.len, at))
		return CdpRefuse(refusal, ERRCODE_INVALID_DATETIME_FORMAT,
						 "time is not in ISO 8601 format",
						 psprintf("It is the value of \"%s\".", camel));
	*present = true;
	return true;
}

/*
 * When it happened, see the head of this file.
 */
static bool
read_occurred_at(JsonbContainer *payload, TimestampTz received_at,
				 TimestampTz *occurred_at, CdpRefusal *refusal)
{
	TimestampTz original = 0;
	TimestampTz sent = 0;
	TimestampTz received = 0;
	bool		present;
	int64		delay;

	if (!read_time(payload, "timestamp", "timestamp", &present, occurred_at, refusal))
		return false;
	if (present)
		return true;
	*occurred_at = received_at;
	if (!read_time(payload, "originalTimestamp", "original_timestamp", &present,
				   &original, refusal))
		return false;
	if (!present)
		return true;
	*occurred_at = original;
	if (!read_time(payload, "sentAt", "sent_at", &present, &sent, refusal))
		return false;
	if (!present)
		return true;
	if (!read_time(payload, "receivedAt", "received_at", &present, &received, refusal))
		return false;
	if (!present)
		received = received_at;
	if (pg_sub_s64_overflow(sent, original, &delay) ||
		pg_sub_s64_overflow(received, delay, occurred_at) ||
		!IS_VALID_TIMESTAMP(*occurred_at))
		return CdpRefuse(refusal, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
						 "time is out of range",
						 "It is computed from \"originalTimestamp\", \"sentAt\" and \"receivedAt\".");
	return true;
}

/*
 * An object among the fields; null counts as absent.
 */
static bool
read_object(JsonbContainer *payload, const char *key, JsonbContainer **object,
			CdpRefusal *refusal)
{
	JsonbValue	value;

	*object = NULL;
	if (CdpJsonKey(payload, key, &value) == NULL)
		return true;
	if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 psprintf("%s is not an object", key), NULL);
	*object = value.val.binary.data;
	return true;
}

static bool
read_type(JsonbContainer *payload, CdpEntryType *type, text **type_name,
		  CdpRefusal *refusal)
{
	JsonbValue	value;

	if (either_key(payload, "type", "action", &value) == NULL)
		return CdpRefuse(refusal, ERRCODE_NULL_VALUE_NOT_ALLOWED,
						 "type is missing", NULL);
	if (value.type != jbvString)
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "type is not a string", NULL);
	*type_name = cstring_to_text_with_len(value.val.string.val, value.val.string.len);
	*type = CdpEntryTypeFromText(*type_name);
	switch (*type)
	{
		case CDP_ENTRY_TRACK:
		case CDP_ENTRY_IDENTIFY:
		case CDP_ENTRY_PAGE:
		case CDP_ENTRY_SCREEN:
		case CDP_ENTRY_GROUP:
		case CDP_ENTRY_LEAVE:
		case CDP_ENTRY_ALIAS:
		case CDP_ENTRY_MERGE:
		case CDP_ENTRY_CONSENT:
			return true;
		default:
			return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
							 "unknown type",
							 "The type must be track, identify, page, screen, group, leave, alias, consent or merge.");
	}
}

/*
 * The message id; an empty one is none.
 */
static bool
read_message_id(JsonbContainer *payload, const char **message_id, int *len,
				CdpRefusal *refusal)
{
	JsonbValue	value;

	*message_id = NULL;
	*len = 0;
	if (either_key(payload, "messageId", "message_id", &value) == NULL)
		return true;
	if (!CdpJsonScalarText(&value, message_id, len))
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "message id is neither a string nor a number", NULL);
	if (*len == 0)
		*message_id = NULL;
	else if (!CdpCheckMessageId(*message_id, *len, refusal))
	{
		*message_id = NULL;		/* do not keep what is too long */
		return false;
	}
	return true;
}

/*
 * Name of the event, page or screen.
 */
static bool
read_event(JsonbContainer *payload, CdpEntryType type, const char **event,
		   int *len, CdpRefusal *refusal)
{
	const char *key;
	JsonbValue	value;

	*event = NULL;
	*len = 0;
	if (type == CDP_ENTRY_TRACK)
		key = "event";
	else if (type == CDP_ENTRY_PAGE || type == CDP_ENTRY_SCREEN)
		key = "name";
	else
		return true;

	if (CdpJsonKey(payload, key, &value) != NULL)
	{
		if (value.type != jbvString)
			return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
							 psprintf("%s is not a string", key), NULL);
		*event = value.val.string.val;
		*len = value.val.string.len;
	}
	if (type == CDP_ENTRY_TRACK && *len == 0)
		return CdpRefuse(refusal, ERRCODE_NULL_VALUE_NOT_ALLOWED,
						 "track without event", NULL);
	return true;
}

/*
 * One payload, inherited fields included, as a row for the log.
 */
static bool
read_payload(CdpIngest *ingest, JsonbContainer *payload, int len,
			 Datum *values, bool *nulls,
			 const char **message_id, int *message_id_len, CdpRefusal *refusal)
{
	CdpEntryType type = CDP_ENTRY_UNKNOWN;
	text	   *type_name = NULL;
	const char *event;
	int			event_len;
	const char *body_key = NULL;
	JsonbContainer *body = NULL;
	JsonbContainer *context;
	CdpIdentifierList identifiers;
	TimestampTz occurred_at;
	Jsonb	   *kept;
	JsonbValue	value;

	if (!read_message_id(payload, message_id, message_id_len, refusal) ||
		!read_type(payload, &type, &type_name, refusal) ||
		!read_event(payload, type, &event, &event_len, refusal) ||
		!read_object(payload, "context", &context, refusal) ||
		!read_occurred_at(payload, ingest->received_at, &occurred_at, refusal))
		return false;

	/* such a context is kept twice, and must fit into one jsonb */
	if (len > JENTRY_OFFLENMASK / 2 &&
		CdpJsonKey(context, CDP_PAYLOAD_KEY, &value) != NULL)
		return CdpRefuse(refusal, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						 "payload is too large",
						 "Its context has a key \"" CDP_PAYLOAD_KEY "\".");

	if (type == CDP_ENTRY_IDENTIFY || type == CDP_ENTRY_GROUP)
		body_key = "traits";
	else if (type != CDP_ENTRY_ALIAS && type != CDP_ENTRY_MERGE)
		body_key = "properties";
	if (body_key != NULL && !read_object(payload, body_key, &body, refusal))
		return false;

	CdpIdentifierListInit(&identifiers);
	if (type == CDP_ENTRY_MERGE)
	{
		if (!CdpExtractMerge(&identifiers, payload, refusal))
			return false;
	}
	else
	{
		if (type == CDP_ENTRY_ALIAS &&
			either_key(payload, "previousId", "previous_id", &value) == NULL)
			return CdpRefuse(refusal, ERRCODE_NULL_VALUE_NOT_ALLOWED,
							 "alias without previousId", NULL);
		if ((type == CDP_ENTRY_GROUP || type == CDP_ENTRY_LEAVE) &&
			either_key(payload, "groupId", "group_id", &value) == NULL &&
			either_key(context, "groupId", "group_id", &value) == NULL)
			return CdpRefuse(refusal, ERRCODE_NULL_VALUE_NOT_ALLOWED,
							 type == CDP_ENTRY_GROUP ? "group without groupId" :
							 "leave without groupId", NULL);
		if (!CdpExtractTopLevel(&identifiers, type, payload, refusal) ||
			!CdpExtractNested(&identifiers, type, body, context, refusal))
			return false;
	}

	kept = CdpPayloadContext(type, payload, *message_id, *message_id_len,
							 event, event_len, &identifiers, body, context,
							 occurred_at, ingest->received_at);

	memset(nulls, 0, ROW_NATTS * sizeof(bool));
	nulls[ROW_MESSAGE_ID] = *message_id == NULL;
	if (*message_id != NULL)
		values[ROW_MESSAGE_ID] =
			PointerGetDatum(cstring_to_text_with_len(*message_id, *message_id_len));
	values[ROW_SOURCE] = PointerGetDatum(ingest->source);
	values[ROW_TYPE] = PointerGetDatum(type_name);
	nulls[ROW_EVENT] = event == NULL;
	if (event != NULL)
		values[ROW_EVENT] = PointerGetDatum(cstring_to_text_with_len(event, event_len));
	values[ROW_IDENTIFIERS] = PointerGetDatum(CdpIdentifierListArray(&identifiers));
	nulls[ROW_PROPERTIES] = body == NULL;
	if (body != NULL)
	{
		(void) CdpJsonKey(payload, body_key, &value);
		values[ROW_PROPERTIES] = JsonbPGetDatum(JsonbValueToJsonb(&value));
	}
	nulls[ROW_CONTEXT] = kept == NULL;
	values[ROW_CONTEXT] = JsonbPGetDatum(kept);
	values[ROW_OCCURRED_AT] = TimestampTzGetDatum(occurred_at);
	values[ROW_RECEIVED_AT] = TimestampTzGetDatum(ingest->received_at);
	return true;
}

static void
push_pair(JsonbParseState **state, const char *key, const char *s, int len)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) key;
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
	value.val.string.val = (char *) s;
	value.val.string.len = len;
	pushJsonbValue(state, WJB_VALUE, &value);
}

/*
 * Put a refused payload aside, and list it in the result.
 */
void
CdpIngestPutAside(CdpIngest *ingest, JsonbValue *payload, const char *message_id,
		  int message_id_len, CdpRefusal *refusal)
{
	static const Oid argtypes[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	JSONBOID, TIMESTAMPTZOID};
	Datum		values[lengthof(argtypes)];
	char		nulls[lengthof(argtypes)];

	if (reject_plan == NULL)
	{
		SPIPlanPtr	plan;

		plan = SPI_prepare_cursor("INSERT INTO cdp.rejected"
								  " (source, message_id, reason, detail, sqlstate, payload, at)"
								  " VALUES ($1, $2, $3, $4, $5, $6, $7)",
								  lengthof(argtypes), (Oid *) argtypes,
								  CURSOR_OPT_GENERIC_PLAN);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the statement that puts payloads aside");
		reject_plan = plan;
	}

	memset(nulls, ' ', sizeof(nulls));
	values[0] = PointerGetDatum(ingest->source);
	nulls[1] = message_id ? ' ' : 'n';
	if (message_id != NULL)
		values[1] = PointerGetDatum(cstring_to_text_with_len(message_id, message_id_len));
	values[2] = CStringGetTextDatum(refusal->reason);
	nulls[3] = refusal->detail ? ' ' : 'n';
	if (refusal->detail != NULL)
		values[3] = CStringGetTextDatum(refusal->detail);
	values[4] = CStringGetTextDatum(unpack_sql_state(refusal->sqlstate));
	values[5] = JsonbPGetDatum(JsonbValueToJsonb(payload));
	values[6] = TimestampTzGetDatum(ingest->received_at);
	if (SPI_execute_plan(reject_plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not put a payload aside");

	if (ingest->rejected++ < MAX_LISTED_ERRORS)
	{
		MemoryContext old = MemoryContextSwitchTo(ingest->caller);
		JsonbValue	value;

		pushJsonbValue(&ingest->errors, WJB_BEGIN_OBJECT, NULL);
		value.type = jbvString;
		value.val.string.val = "index";
		value.val.string.len = 5;
		pushJsonbValue(&ingest->errors, WJB_KEY, &value);
		value.type = jbvNumeric;
		value.val.numeric = int64_to_numeric(ingest->seen - 1);
		pushJsonbValue(&ingest->errors, WJB_VALUE, &value);
		if (message_id != NULL)
			push_pair(&ingest->errors, "messageId",
					  pnstrdup(message_id, message_id_len), message_id_len);
		push_pair(&ingest->errors, "reason", pstrdup(refusal->reason),
				  strlen(refusal->reason));
		if (refusal->detail != NULL)
			push_pair(&ingest->errors, "detail", pstrdup(refusal->detail),
					  strlen(refusal->detail));
		pushJsonbValue(&ingest->errors, WJB_END_OBJECT, NULL);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Fields of a batch body that its messages inherit when they lack them.
 * Contexts are merged key by key.
 */
static const char *const inherited[] = {
	"channel", "integrations", "sentAt", "sent_at"
};

static JsonbContainer *
inherit(JsonbContainer *payload, JsonbContainer *batch)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbValue	value;
	JsonbContainer *outer = CdpJsonObject(batch, "context");
	JsonbValue	own;
	bool		merge;
	bool		any = false;
	int			i;

	/* a context that is no object will be refused, not papered over */
	merge = outer != NULL &&
		(CdpJsonKey(payload, "context", &own) == NULL ||
		 CdpJsonObject(payload, "context") != NULL);
	any = merge;
	for (i = 0; i < lengthof(inherited); i++)
		if (CdpJsonKey(batch, inherited[i], &value) != NULL &&
			CdpJsonKey(payload, inherited[i], &own) == NULL)
			any = true;
	if (!any)
		return payload;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	/* of equal keys the last one counts: what is inherited comes first */
	for (i = 0; i < lengthof(inherited); i++)
		if (CdpJsonKey(batch, inherited[i], &value) != NULL)
		{
			JsonbValue	key;

			key.type = jbvString;
			key.val.string.val = (char *) inherited[i];
			key.val.string.len = strlen(inherited[i]);
			pushJsonbValue(&state, WJB_KEY, &key);
			pushJsonbValue(&state, WJB_VALUE, &value);
		}
	it = JsonbIteratorInit(payload);
	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
	{
		JsonbValue	key = value;
		bool		skip = false;

		(void) JsonbIteratorNext(&it, &value, true);
		if (merge && key.val.string.len == 7 &&
			memcmp(key.val.string.val, "context", 7) == 0)
			skip = true;
		/* null is as good as absent, so it does not override */
		for (i = 0; value.type == jbvNull && i < lengthof(inherited); i++)
			if (key.val.string.len == strlen(inherited[i]) &&
				memcmp(key.val.string.val, inherited[i], key.val.string.len) == 0)
				skip = true;
		if (skip)
			continue;
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	if (merge)
	{
		JsonbContainer *parts[2];
		JsonbValue	key;

		parts[0] = outer;
		parts[1] = CdpJsonObject(payload, "context");
		key.type = jbvString;
		key.val.string.val = "context";
		key.val.string.len = 7;
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		for (i = 0; i < 2; i++)
		{
			if (parts[i] == NULL)
				continue;
			it = JsonbIteratorInit(parts[i]);
			(void) JsonbIteratorNext(&it, &value, true);
			while (JsonbIteratorNext(&it, &value, true) == WJB_KEY)
			{
				key = value;
				(void) JsonbIteratorNext(&it, &value, true);
				pushJsonbValue(&state, WJB_KEY, &key);
				pushJsonbValue(&state, WJB_VALUE, &value);
			}
		}
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	return &JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL))->root;
}

/*
 * One element: a row for the log, or put aside.
 */
void
CdpIngestOne(CdpIngest *ingest, JsonbValue *element, JsonbContainer *batch)
{
	MemoryContext old = MemoryContextSwitchTo(ingest->scratch);
	Datum		values[ROW_NATTS];
	bool		nulls[ROW_NATTS];
	const char *message_id = NULL;
	int			message_id_len = 0;
	CdpRefusal	refusal;
	JsonbValue	payload = *element;
	bool		ok = false;

	CHECK_FOR_INTERRUPTS();
	ingest->seen++;
	if (element->type != jbvBinary ||
		!JsonContainerIsObject(element->val.binary.data))
		(void) CdpRefuse(&refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "payload is not an object", NULL);
	else
	{
		if (batch != NULL)
		{
			JsonbContainer *whole = inherit(element->val.binary.data, batch);

			if (whole != element->val.binary.data)
			{
				payload.val.binary.data = whole;
				/* a root container made just now: its varlena header precedes it */
				payload.val.binary.len =
					VARSIZE((char *) whole - offsetof(Jsonb, root)) - VARHDRSZ;
			}
		}
		ok = read_payload(ingest, payload.val.binary.data,
						  payload.val.binary.len, values, nulls,
						  &message_id, &message_id_len, &refusal);
	}

	if (ok)
	{
		tuplestore_putvalues(ingest->rows, ingest->tupdesc, values, nulls);
		ingest->accepted++;
	}
	else
		CdpIngestPutAside(ingest, &payload, message_id, message_id_len, &refusal);
	MemoryContextSwitchTo(old);
	MemoryContextReset(ingest->scratch);
}

static void
ingest_array(CdpIngest *ingest, JsonbContainer *array, JsonbContainer *batch)
{
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbValue	value;

	(void) JsonbIteratorNext(&it, &value, true);
	while (JsonbIteratorNext(&it, &value, true) == WJB_ELEM)
		CdpIngestOne(ingest, &value, batch);
}

static TupleDesc
row_descriptor(Oid array_type)
{
	TupleDesc	tupdesc = CreateTemplateTupleDesc(ROW_NATTS);

	TupleDescInitEntry(tupdesc, ROW_MESSAGE_ID + 1, "message_id", TEXTOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_SOURCE + 1, "source", TEXTOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_TYPE + 1, "type", TEXTOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_EVENT + 1, "event", TEXTOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_IDENTIFIERS + 1, "identifiers", array_type, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_PROPERTIES + 1, "properties", JSONBOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_CONTEXT + 1, "context", JSONBOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_OCCURRED_AT + 1, "occurred_at", TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(tupdesc, ROW_RECEIVED_AT + 1, "received_at", TIMESTAMPTZOID, -1, 0);
	return tupdesc;
}

/*
 * Append the rows, all by one statement that reads them as a relation.
 */
static void
append_rows(CdpIngest *ingest, Oid array_type)
{
	EphemeralNamedRelation rows = palloc0(sizeof(EphemeralNamedRelationData));

	rows->md.name = ROWS_NAME;
	rows->md.reliddesc = InvalidOid;
	rows->md.tupdesc = ingest->tupdesc;
	rows->md.enrtype = ENR_NAMED_TUPLESTORE;
	rows->md.enrtuples = ingest->accepted;
	rows->reldata = ingest->rows;
	if (SPI_register_relation(rows) != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register the payloads");

	if (insert_plan != NULL && insert_array_type != array_type)
	{
		SPI_freeplan(insert_plan);
		insert_plan = NULL;
	}
	if (insert_plan == NULL)
	{
		SPIPlanPtr	plan;

		plan = SPI_prepare("INSERT INTO cdp.events (message_id, source, type, event,"
						   " identifiers, properties, context, occurred_at, received_at)"
						   " SELECT p.message_id, p.source, p.type, p.event,"
						   " p.identifiers, p.properties, p.context, p.occurred_at,"
						   " p.received_at FROM " ROWS_NAME " AS p",
						   0, NULL);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the statement that appends payloads");
		insert_plan = plan;
		insert_array_type = array_type;
	}
	if (SPI_execute_plan(insert_plan, NULL, NULL, false, 0) != SPI_OK_INSERT ||
		SPI_processed != ingest->accepted)
		elog(ERROR, "could not append payloads to the log");
	SPI_unregister_relation(ROWS_NAME);
}

/*
 * Prepare for payloads from a source; whatever follows, up to CdpIngestEnd,
 * is done as the owner of the extension and within SPI.
 */
void
CdpIngestBegin(CdpIngest *ingest, text *source)
{
	memset(ingest, 0, sizeof(CdpIngest));
	ingest->source = source ? source : cstring_to_text("sql");
	if (VARSIZE_ANY_EXHDR(ingest->source) > CDP_MAX_MESSAGE_ID)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("source is too long"),
				 errdetail("It has %d bytes, the limit is %d.",
						   (int) VARSIZE_ANY_EXHDR(ingest->source), CDP_MAX_MESSAGE_ID)));
	ingest->received_at = CdpClock();
	ingest->array_type = get_array_type(CdpTypeOid("identifier"));
	ingest->tupdesc = row_descriptor(ingest->array_type);
	ingest->rows = tuplestore_begin_heap(false, false, work_mem);
	ingest->caller = CurrentMemoryContext;
	ingest->scratch = AllocSetContextCreate(CurrentMemoryContext, "cdp payload",
											ALLOCSET_DEFAULT_SIZES);
	pushJsonbValue(&ingest->errors, WJB_BEGIN_ARRAY, NULL);
	CdpBecomeOwner(&ingest->saved);
	SPI_connect();
}

/*
 * Append what was accepted, and return the one row of the result.
 */
void
CdpIngestEnd(CdpIngest *ingest, ReturnSetInfo *rsinfo)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	if (ingest->accepted > 0)
		append_rows(ingest, ingest->array_type);
	SPI_finish();
	CdpRestoreUser(&ingest->saved);
	tuplestore_end(ingest->rows);

	values[0] = Int64GetDatum(ingest->accepted);
	values[1] = Int64GetDatum(ingest->rejected);
	values[2] = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&ingest->errors, WJB_END_ARRAY, NULL)));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * A payload, an array of payloads, or a batch body.
 */
void
CdpIngestJsonb(CdpIngest *ingest, Jsonb *payload)
{
	JsonbValue	root;
	JsonbValue	batch;

	if (JB_ROOT_IS_SCALAR(payload))
	{
		(void) JsonbExtractScalar(&payload->root, &root);
		CdpIngestOne(ingest, &root, NULL);
	}
	else if (JB_ROOT_IS_ARRAY(payload))
		ingest_array(ingest, &payload->root, NULL);
	else if (CdpJsonKey(&payload->root, "batch", &batch) != NULL &&
			 batch.type == jbvBinary && JsonContainerIsArray(batch.val.binary.data))
		ingest_array(ingest, batch.val.binary.data, &payload->root);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &payload->root;
		root.val.binary.len = VARSIZE(payload) - VARHDRSZ;
		CdpIngestOne(ingest, &root, NULL);
	}
}

/*
 * cdp.ingest(payload jsonb, source text)
 *		returns table (accepted bigint, rejected bigint, errors jsonb)
 */
Datum
cdp_ingest(PG_FUNCTION_ARGS)
{
	CdpIngest	ingest;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("payload must not be NULL")));
	CdpIngestBegin(&ingest, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	CdpIngestJsonb(&ingest, PG_GETARG_JSONB_P(0));
	CdpIngestEnd(&ingest, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}
