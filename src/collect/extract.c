/*-------------------------------------------------------------------------
 *
 * extract.c
 *	  Who is meant: identifiers out of calls and payloads.
 *
 *	  The places are those that Segment documents; keys may be written in
 *	  camelCase or snake_case.  Values may be strings or numbers.  At the top
 *	  level and among device and external ids anything else is refused, for
 *	  there it can only be a mistake; an email or phone of another type among
 *	  traits and properties is merely not an identifier ("email": true may
 *	  well be the answer to a question about newsletters).
 *
 *	  Three places where this is stricter than the letter of the documents:
 *
 *	  - An email is taken from the first of traits.email,
 *		context.traits.email and properties.email that has one, not from all
 *		three.  properties.email can name somebody else (the friend who is
 *		invited), and where the payload says elsewhere what the person's own
 *		address is, that is the one.
 *	  - The traits of a group call describe the account, so its email and
 *		phone are the account's and identify no person.
 *	  - External ids of collection "accounts" get the prefix "account.", so
 *		that the same type of id for a person and a company cannot meet.
 *
 * IDENTIFICATION
 *	  src/collect/extract.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "collect/extract.h"

bool
CdpRefuse(CdpRefusal *refusal, int sqlstate, const char *reason,
		  const char *detail)
{
	refusal->sqlstate = sqlstate;
	refusal->reason = reason;
	refusal->detail = detail;
	return false;
}

void
CdpIdentifierListInit(CdpIdentifierList *list)
{
	list->count = 0;
	list->allocated = 8;
	list->items = palloc(list->allocated * sizeof(Datum));
}

void
CdpIdentifierListAdd(CdpIdentifierList *list, const char *kind, int kindlen,
					 const char *value, int valuelen)
{
	CdpIdentifier *identifier = CdpIdentifierMake(kind, kindlen, value, valuelen);
	int			i;

	for (i = 0; i < list->count; i++)
	{
		CdpIdentifier *other = (CdpIdentifier *) DatumGetPointer(list->items[i]);

		if (VARSIZE(other) == VARSIZE(identifier) &&
			memcmp(other, identifier, VARSIZE(identifier)) == 0)
		{
			pfree(identifier);
			return;
		}
	}
	if (list->count == list->allocated)
	{
		list->allocated *= 2;
		list->items = repalloc(list->items, list->allocated * sizeof(Datum));
	}
	list->items[list->count++] = PointerGetDatum(identifier);
}

ArrayType *
CdpIdentifierListArray(CdpIdentifierList *list)
{
	return construct_array(list->items, list->count, CdpTypeOid("identifier"),
						   -1, false, TYPALIGN_INT);
}

/*
 * Value of a key; NULL when the key is absent or its value is null.
 */
JsonbValue *
CdpJsonKey(JsonbContainer *container, const char *key, JsonbValue *res)
{
	if (container == NULL || !JsonContainerIsObject(container))
		return NULL;
	if (getKeyJsonValueFromContainer(container, key, strlen(key), res) == NULL ||
		res->type == jbvNull)
		return NULL;
	return res;
}

/*
 * The same for two spellings of a key.
 */
static JsonbValue *
either_key(JsonbContainer *container, const char *camel, const char *snake,
		   JsonbValue *res)
{
	JsonbValue *value = CdpJsonKey(container, camel, res);

	return value ? value : CdpJsonKey(container, snake, res);
}

/*
 * Value of a key when it is an object, else NULL.
 */
JsonbContainer *
CdpJsonObject(JsonbContainer *container, const char *key)
{
	JsonbValue	value;

	if (CdpJsonKey(container, key, &value) == NULL ||
		value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
		return NULL;
	return value.val.binary.data;
}

/*
 * Text of a string or number.
 */
bool
CdpJsonScalarText(const JsonbValue *value, const char **text, int *len)
{
	if (value->type == jbvString)
	{
		*text = value->val.string.val;
		*len = value->val.string.len;
		return true;
	}
	if (value->type == jbvNumeric)
	{
		*text = DatumGetCString(DirectFunctionCall1(numeric_out,
													NumericGetDatum(value->val.numeric)));
		*len = strlen(*text);
		return true;
	}
	return false;
}

/*
 * Message ids: long ones would not fit into indexes, and #<digits> is how
 * entries without one are called.
 */
bool
CdpCheckMessageId(const char *message_id, int len, CdpRefusal *refusal)
{
	if (len > CDP_MAX_MESSAGE_ID)
		return CdpRefuse(refusal, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						 "message id is too long",
						 psprintf("It has %d bytes, the limit is %d.",
								  len, CDP_MAX_MESSAGE_ID));
	if (len > 1 && message_id[0] == '#' &&
		strspn(message_id + 1, "0123456789") >= len - 1)
		return CdpRefuse(refusal, ERRCODE_RESERVED_NAME,
						 "message id is reserved",
						 "Entries without a message id are called #1, #2, and so on.");
	return true;
}

/*
 * An id that can be nothing but an id: add it, refuse other types than
 * strings and numbers.
 */
static bool
add_id(CdpIdentifierList *list, const char *kind, const JsonbValue *value,
	   const char *where, CdpRefusal *refusal)
{
	const char *text;
	int			len;

	if (value == NULL)
		return true;
	if (!CdpJsonScalarText(value, &text, &len))
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "identifier is neither a string nor a number",
						 psprintf("It is the value of \"%s\".", where));
	CdpIdentifierListAdd(list, kind, strlen(kind), text, len);
	return true;
}

/*
 * A trait or property that identifies when it is a string or number.
 */
static bool
add_trait(CdpIdentifierList *list, const char *kind, const JsonbValue *value)
{
	const char *text;
	int			len;

	if (value == NULL || !CdpJsonScalarText(value, &text, &len) || len == 0)
		return false;
	CdpIdentifierListAdd(list, kind, strlen(kind), text, len);
	return true;
}

/*
 * userId, anonymousId, groupId, previousId of a payload.  previousId is a
 * former anonymous id: an alias call links it to userId.
 */
bool
CdpExtractTopLevel(CdpIdentifierList *list, CdpEntryType type,
				   JsonbContainer *payload, CdpRefusal *refusal)
{
	JsonbValue	value;

	if (!add_id(list, "user_id", either_key(payload, "userId", "user_id", &value),
				"userId", refusal))
		return false;
	if (type == CDP_ENTRY_ALIAS &&
		!add_id(list, "anonymous_id",
				either_key(payload, "previousId", "previous_id", &value),
				"previousId", refusal))
		return false;
	if (!add_id(list, "anonymous_id",
				either_key(payload, "anonymousId", "anonymous_id", &value),
				"anonymousId", refusal))
		return false;
	if (!add_id(list, "group_id",
				either_key(payload, "groupId", "group_id", &value),
				"groupId", refusal))
		return false;
	return add_id(list, "cross_domain_id",
				  either_key(payload, "crossDomainId", "cross_domain_id", &value),
				  "crossDomainId", refusal);
}

/*
 * context.device: id, advertisingId and token, by type of device.
 */
static bool
extract_device(CdpIdentifierList *list, JsonbContainer *device, CdpRefusal *refusal)
{
	JsonbValue	value;
	JsonbValue	tracking;
	bool		android;

	if (CdpJsonKey(device, "type", &value) == NULL || value.type != jbvString)
		return true;
	if (value.val.string.len == 7 &&
		pg_strncasecmp(value.val.string.val, "android", 7) == 0)
		android = true;
	else if (value.val.string.len == 3 &&
			 pg_strncasecmp(value.val.string.val, "ios", 3) == 0)
		android = false;
	else
		return true;

	if (!add_id(list, android ? "android.id" : "ios.id",
				CdpJsonKey(device, "id", &value), "context.device.id", refusal))
		return false;
	if (either_key(device, "adTrackingEnabled", "ad_tracking_enabled", &tracking) == NULL ||
		tracking.type != jbvBool || tracking.val.boolean)
	{
		if (!add_id(list, android ? "android.idfa" : "ios.idfa",
					either_key(device, "advertisingId", "advertising_id", &value),
					"context.device.advertisingId", refusal))
			return false;
	}
	return add_id(list, android ? "android.push_token" : "ios.push_token",
				  CdpJsonKey(device, "token", &value), "context.device.token", refusal);
}

/*
 * Name of the kind that the type of an external id stands for: lower case,
 * blanks and dashes as underscores.  NULL when that gives no name.
 */
static char *
external_kind(const char *prefix, const JsonbValue *type, int *kindlen)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	appendStringInfoString(&buf, prefix);
	for (i = 0; i < type->val.string.len; i++)
	{
		char		c = type->val.string.val[i];

		if (c >= 'A' && c <= 'Z')
			c += 'a' - 'A';
		else if (c == ' ' || c == '-')
			c = '_';
		if (!((c >= 'a' && c <= 'z') || c == '_' ||
			  (buf.len > 0 && ((c >= '0' && c <= '9') || c == '.'))))
			return NULL;
		appendStringInfoChar(&buf, c);
	}
	*kindlen = buf.len;
	if (type->val.string.len == 0 || buf.len > 63)
		return NULL;
	return buf.data;
}

static bool
extract_external_id(CdpIdentifierList *list, JsonbContainer *external,
					CdpRefusal *refusal)
{
	JsonbValue	type;
	JsonbValue	id;
	JsonbValue	collection;
	const char *prefix = "";
	const char *text;
	char	   *kind;
	int			kindlen;
	int			len;

	if (CdpJsonKey(external, "type", &type) == NULL ||
		CdpJsonKey(external, "id", &id) == NULL)
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "external id without type or id", NULL);
	if (CdpJsonKey(external, "collection", &collection) != NULL)
	{
		if (collection.type == jbvString && collection.val.string.len == 8 &&
			memcmp(collection.val.string.val, "accounts", 8) == 0)
			prefix = "account.";
		else if (collection.type != jbvString || collection.val.string.len != 5 ||
				 memcmp(collection.val.string.val, "users", 5) != 0)
			return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
							 "external id of an unknown collection",
							 "The collection must be \"users\" or \"accounts\".");
	}
	if (type.type == jbvString && type.val.string.len == 8 &&
		memcmp(type.val.string.val, "group_id", 8) == 0)
		prefix = "";
	kind = type.type == jbvString ? external_kind(prefix, &type, &kindlen) : NULL;
	if (kind == NULL)
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "external id whose type is not the name of a kind",
						 "The type must have at most 63 letters, digits, underscores and dots.");
	if (!CdpJsonScalarText(&id, &text, &len))
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "identifier is neither a string nor a number",
						 "It is the id of one of \"context.externalIds\".");
	CdpIdentifierListAdd(list, kind, kindlen, text, len);
	return true;
}

static bool
extract_external_ids(CdpIdentifierList *list, const JsonbValue *externals,
					 CdpRefusal *refusal)
{
	JsonbContainer *array;
	uint32		n;
	uint32		i;

	if (externals->type != jbvBinary ||
		!JsonContainerIsArray(externals->val.binary.data))
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "external ids are not an array", NULL);
	array = externals->val.binary.data;
	n = JsonContainerSize(array);
	if (n > CDP_MAX_EXTERNAL_IDS)
		return CdpRefuse(refusal, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						 "too many external ids",
						 psprintf("There are %u, the limit is %d.",
								  n, CDP_MAX_EXTERNAL_IDS));
	for (i = 0; i < n; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);

		CHECK_FOR_INTERRUPTS();
		if (element->type != jbvBinary ||
			!JsonContainerIsObject(element->val.binary.data))
			return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
							 "external id is not an object", NULL);
		if (!extract_external_id(list, element->val.binary.data, refusal))
			return false;
	}
	return true;
}

/*
 * What the body (traits of identify and group, properties of the others) and
 * the context say.  Either may be NULL.
 */
bool
CdpExtractNested(CdpIdentifierList *list, CdpEntryType type,
				 JsonbContainer *body, JsonbContainer *context,
				 CdpRefusal *refusal)
{
	JsonbContainer *traits = CdpJsonObject(context, "traits");
	JsonbContainer *object;
	JsonbValue	value;
	bool		found = false;

	if (type == CDP_ENTRY_IDENTIFY)
		found = add_trait(list, "email", CdpJsonKey(body, "email", &value));
	if (!found)
		found = add_trait(list, "email", CdpJsonKey(traits, "email", &value));
	if (!found && (type == CDP_ENTRY_TRACK || type == CDP_ENTRY_PAGE ||
				   type == CDP_ENTRY_SCREEN))
		(void) add_trait(list, "email", CdpJsonKey(body, "email", &value));

	found = false;
	if (type == CDP_ENTRY_IDENTIFY)
		found = add_trait(list, "phone", CdpJsonKey(body, "phone", &value));
	if (!found)
		(void) add_trait(list, "phone", CdpJsonKey(traits, "phone", &value));

	if (context == NULL)
		return true;

	object = CdpJsonObject(context, "device");
	if (object != NULL && !extract_device(list, object, refusal))
		return false;

	object = CdpJsonObject(CdpJsonObject(context, "integrations"), "Google Analytics");
	if (object != NULL &&
		!add_id(list, "ga_client_id",
				either_key(object, "clientId", "client_id", &value),
				"context.integrations.Google Analytics.clientId", refusal))
		return false;

	if (!add_id(list, "braze_id",
				either_key(context, "brazeId", "braze_id", &value),
				"context.brazeId", refusal))
		return false;
	object = CdpJsonObject(context, "Braze");
	if (object != NULL &&
		!add_id(list, "braze_id", either_key(object, "brazeId", "braze_id", &value),
				"context.Braze.braze_id", refusal))
		return false;
	if (!add_id(list, "cross_domain_id",
				either_key(context, "crossDomainId", "cross_domain_id", &value),
				"context.crossDomainId", refusal))
		return false;

	if (either_key(context, "externalIds", "external_ids", &value) != NULL &&
		!extract_external_ids(list, &value, refusal))
		return false;

	return add_id(list, "group_id",
				  either_key(context, "groupId", "group_id", &value),
				  "context.groupId", refusal);
}

/*
 * mergeProperties of a merge call: exactly two objects {type, value}.
 */
bool
CdpExtractMerge(CdpIdentifierList *list, JsonbContainer *payload,
				CdpRefusal *refusal)
{
	JsonbValue	value;
	JsonbContainer *array;
	int			i;

	if (either_key(payload, "mergeProperties", "merge_properties", &value) == NULL ||
		value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data) ||
		JsonContainerSize(value.val.binary.data) != 2)
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "merge without two merge properties", NULL);
	array = value.val.binary.data;
	for (i = 0; i < 2; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(array, i);
		JsonbValue	type;
		JsonbValue	id;
		const char *text;
		char	   *kind;
		int			kindlen;
		int			len;

		if (element->type != jbvBinary ||
			!JsonContainerIsObject(element->val.binary.data) ||
			CdpJsonKey(element->val.binary.data, "type", &type) == NULL ||
			CdpJsonKey(element->val.binary.data, "value", &id) == NULL ||
			type.type != jbvString ||
			(kind = external_kind("", &type, &kindlen)) == NULL ||
			!CdpJsonScalarText(&id, &text, &len))
			return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
							 "merge property without usable type or value", NULL);
		CdpIdentifierListAdd(list, kind, kindlen, text, len);
	}
	if (list->count != 2)
		return CdpRefuse(refusal, ERRCODE_INVALID_PARAMETER_VALUE,
						 "merge of an identifier with itself", NULL);
	return true;
}
