/*-------------------------------------------------------------------------
 *
 * track.c
 *	  The calls that append one entry: track, identify, page, screen, group, leave_group
 *	  and alias.
 *
 *	  A call comes from a programmer who can read an error, so mistakes are
 *	  errors here, while a payload with the same mistake is put aside and a
 *	  loaded row with it is rejected when it is applied.
 *
 * IDENTIFICATION
 *	  src/collect/track.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "collect/extract.h"

PG_FUNCTION_INFO_V1(cdp_track);
PG_FUNCTION_INFO_V1(cdp_identify);
PG_FUNCTION_INFO_V1(cdp_page);
PG_FUNCTION_INFO_V1(cdp_screen);
PG_FUNCTION_INFO_V1(cdp_group);
PG_FUNCTION_INFO_V1(cdp_leave_group);
PG_FUNCTION_INFO_V1(cdp_alias);

/*
 * What a call says, before the arguments that all calls end with:
 * identifiers, context, occurred_at, message_id, source.
 */
typedef struct Call
{
	const char *name;
	CdpEntryType type;
	text	   *event;
	Jsonb	   *body;			/* properties or traits */
	const char *body_name;
	text	   *user_id;
	text	   *previous_id;
	text	   *anonymous_id;
	text	   *group_id;
	int			tail;			/* number of the argument identifiers */
} Call;

static text *
text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_TEXT_PP(n);
}

static Jsonb *
jsonb_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_JSONB_P(n);
}

static void
check_object(Jsonb *json, const char *name)
{
	if (json != NULL && !JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a JSON object", name)));
}

/*
 * An empty key is no identifier: that is how applications write that they do
 * not know it.
 */
static void
add_key(CdpIdentifierList *list, const char *kind, text *key)
{
	if (key != NULL && VARSIZE_ANY_EXHDR(key) > 0)
		CdpIdentifierListAdd(list, kind, strlen(kind),
							 VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
}

/*
 * The argument identifiers.  Kinds must be registered: in a program a kind
 * that nobody has defined is a typing error.
 */
static void
add_identifiers(CdpIdentifierList *list, ArrayType *array)
{
	CdpKindSet *kinds = CdpKindSetGet(-1);
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (i = 0; i < n; i++)
	{
		CdpIdentifier *identifier;
		const char *data;
		int			kindlen;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("identifiers must not contain NULL")));
		identifier = DatumGetIdentifierPP(elements[i]);
		data = VARDATA_ANY(identifier);
		kindlen = CdpIdentifierKindLength(identifier);
		if (!CdpKindLookup(kinds, data, kindlen)->registered)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("kind of identifier \"%.*s\" is not registered",
							kindlen, data),
					 errhint("Register it with cdp.create_identifier_kind().")));
		CdpIdentifierListAdd(list, data, kindlen, data + kindlen + 1,
							 VARSIZE_ANY_EXHDR(identifier) - kindlen - 1);
	}
}

static Datum
log_call(FunctionCallInfo fcinfo, Call *call)
{
	Jsonb	   *context = jsonb_arg(fcinfo, call->tail + 1);
	text	   *message_id = text_arg(fcinfo, call->tail + 3);
	text	   *source = text_arg(fcinfo, call->tail + 4);
	TimestampTz occurred_at = 0;
	CdpIdentifierList list;
	ArrayType  *identifiers;
	CdpRefusal	refusal;

	check_object(call->body, call->body_name);
	check_object(context, "context");

	if (!PG_ARGISNULL(call->tail + 2))
	{
		occurred_at = PG_GETARG_TIMESTAMPTZ(call->tail + 2);
		if (TIMESTAMP_NOT_FINITE(occurred_at))
			ereport(ERROR,
					(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					 errmsg("occurred_at must be finite")));
	}

	if (message_id != NULL && VARSIZE_ANY_EXHDR(message_id) == 0)
		message_id = NULL;
	if (message_id != NULL &&
		!CdpCheckMessageId(VARDATA_ANY(message_id),
						   VARSIZE_ANY_EXHDR(message_id), &refusal))
		ereport(ERROR,
				(errcode(refusal.sqlstate),
				 errmsg("%s", refusal.reason),
				 errdetail("%s", refusal.detail)));
	if (source != NULL && VARSIZE_ANY_EXHDR(source) > CDP_MAX_MESSAGE_ID)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("source is too long"),
				 errdetail("It has %d bytes, the limit is %d.",
						   (int) VARSIZE_ANY_EXHDR(source), CDP_MAX_MESSAGE_ID)));

	CdpIdentifierListInit(&list);
	add_key(&list, "user_id", call->user_id);
	add_key(&list, "anonymous_id", call->previous_id);
	add_key(&list, "anonymous_id", call->anonymous_id);
	add_key(&list, "group_id", call->group_id);
	if (!PG_ARGISNULL(call->tail))
		add_identifiers(&list, PG_GETARG_ARRAYTYPE_P(call->tail));
	if (!CdpExtractNested(&list, call->type,
						  call->body ? &call->body->root : NULL,
						  context ? &context->root : NULL, &refusal))
		ereport(ERROR,
				(errcode(refusal.sqlstate),
				 errmsg("%s", refusal.reason),
				 refusal.detail ? errdetail("%s", refusal.detail) : 0));
	if (list.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s without identifier", call->name),
				 errhint("Say who is meant: user_id, anonymous_id or identifiers.")));

	identifiers = CdpIdentifierListArray(&list);
	CdpCheckRaise(identifiers,
				  PG_ARGISNULL(call->tail + 2) ? NULL : &occurred_at);

	PG_RETURN_TEXT_P(CdpLogAppend(call->name, call->event, identifiers,
								  call->body, context,
								  PG_ARGISNULL(call->tail + 2) ? NULL : &occurred_at,
								  message_id, source));
}

/*
 * A call of another station: see collect.h.
 */
Datum
CdpLogSaid(FunctionCallInfo fcinfo, const char *name, CdpEntryType type, Jsonb *body,
		   text *user_id, text *anonymous_id, int tail)
{
	Call		call = {.name = name,.type = type,.body = body,.body_name = "properties",
	.user_id = user_id,.anonymous_id = anonymous_id,.tail = tail};

	return log_call(fcinfo, &call);
}

/*
 * cdp.track(event, properties, user_id, anonymous_id, ...) returns text
 */
Datum
cdp_track(PG_FUNCTION_ARGS)
{
	Call		call = {.name = "track",.type = CDP_ENTRY_TRACK,
	.body_name = "properties",.tail = 4};

	call.event = text_arg(fcinfo, 0);
	if (call.event == NULL || VARSIZE_ANY_EXHDR(call.event) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("track without event")));
	call.body = jsonb_arg(fcinfo, 1);
	call.user_id = text_arg(fcinfo, 2);
	call.anonymous_id = text_arg(fcinfo, 3);
	return log_call(fcinfo, &call);
}

/*
 * cdp.identify(user_id, traits, anonymous_id, ...) returns text
 */
Datum
cdp_identify(PG_FUNCTION_ARGS)
{
	Call		call = {.name = "identify",.type = CDP_ENTRY_IDENTIFY,
	.body_name = "traits",.tail = 3};

	call.user_id = text_arg(fcinfo, 0);
	call.body = jsonb_arg(fcinfo, 1);
	call.anonymous_id = text_arg(fcinfo, 2);
	return log_call(fcinfo, &call);
}

/*
 * Page and screen: the category is one of the properties.
 */
static Datum
log_view(FunctionCallInfo fcinfo, const char *name, CdpEntryType type)
{
	Call		call = {.name = name,.type = type,
	.body_name = "properties",.tail = 5};

	call.event = text_arg(fcinfo, 0);
	call.body = jsonb_arg(fcinfo, 2);
	check_object(call.body, call.body_name);
	if (!PG_ARGISNULL(1))
	{
		text	   *category = PG_GETARG_TEXT_PP(1);
		JsonbParseState *state = NULL;
		JsonbValue	value;
		Jsonb	   *added;

		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		value.type = jbvString;
		value.val.string.val = pstrdup("category");
		value.val.string.len = strlen("category");
		pushJsonbValue(&state, WJB_KEY, &value);
		value.val.string.val = VARDATA_ANY(category);
		value.val.string.len = VARSIZE_ANY_EXHDR(category);
		pushJsonbValue(&state, WJB_VALUE, &value);
		added = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
		if (call.body == NULL)
			call.body = added;
		else
			call.body = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
														   JsonbPGetDatum(call.body),
														   JsonbPGetDatum(added)));
	}
	call.user_id = text_arg(fcinfo, 3);
	call.anonymous_id = text_arg(fcinfo, 4);
	return log_call(fcinfo, &call);
}

/*
 * cdp.page(name, category, properties, user_id, anonymous_id, ...) returns text
 */
Datum
cdp_page(PG_FUNCTION_ARGS)
{
	return log_view(fcinfo, "page", CDP_ENTRY_PAGE);
}

/*
 * cdp.screen(name, category, properties, user_id, anonymous_id, ...) returns text
 */
Datum
cdp_screen(PG_FUNCTION_ARGS)
{
	return log_view(fcinfo, "screen", CDP_ENTRY_SCREEN);
}

/*
 * cdp.group(group_id, traits, user_id, anonymous_id, ...) returns text
 */
Datum
cdp_group(PG_FUNCTION_ARGS)
{
	Call		call = {.name = "group",.type = CDP_ENTRY_GROUP,
	.body_name = "traits",.tail = 4};

	call.group_id = text_arg(fcinfo, 0);
	if (call.group_id == NULL || VARSIZE_ANY_EXHDR(call.group_id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("group without group_id")));
	call.body = jsonb_arg(fcinfo, 1);
	call.user_id = text_arg(fcinfo, 2);
	call.anonymous_id = text_arg(fcinfo, 3);
	return log_call(fcinfo, &call);
}

/*
 * cdp.leave_group(group_id, user_id, anonymous_id, ...) returns text
 */
Datum
cdp_leave_group(PG_FUNCTION_ARGS)
{
	Call		call = {.name = "leave",.type = CDP_ENTRY_LEAVE,.tail = 3};

	call.group_id = text_arg(fcinfo, 0);
	if (call.group_id == NULL || VARSIZE_ANY_EXHDR(call.group_id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("leave_group without group_id")));
	call.user_id = text_arg(fcinfo, 1);
	call.anonymous_id = text_arg(fcinfo, 2);
	if ((call.user_id == NULL || VARSIZE_ANY_EXHDR(call.user_id) == 0) &&
		(call.anonymous_id == NULL || VARSIZE_ANY_EXHDR(call.anonymous_id) == 0) &&
		PG_ARGISNULL(call.tail))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("leave_group does not say who leaves"),
				 errhint("Say who is meant: user_id, anonymous_id or identifiers.")));
	return log_call(fcinfo, &call);
}

/*
 * cdp.alias(previous_id, user_id, ...) returns text
 *
 * The previous id is an anonymous id, as with the libraries that still have
 * this call; an identify call with both ids says the same.
 */
Datum
cdp_alias(PG_FUNCTION_ARGS)
{
	Call		call = {.name = "alias",.type = CDP_ENTRY_ALIAS,.tail = 2};

	call.previous_id = text_arg(fcinfo, 0);
	if (call.previous_id == NULL || VARSIZE_ANY_EXHDR(call.previous_id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("alias without previous_id")));
	call.user_id = text_arg(fcinfo, 1);
	return log_call(fcinfo, &call);
}
