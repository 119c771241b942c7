/*-------------------------------------------------------------------------
 *
 * phone.cpp
 *	  Phone numbers in E.164, by libphonenumber.
 *
 *	  Includes no header of PostgreSQL, so that nothing here can longjmp over
 *	  a destructor; every exception ends here.
 *
 *	  Whether a number is valid is not asked: that answer changes with every
 *	  release of the numbering plans, and what was one person's number must
 *	  stay it.
 *
 * IDENTIFICATION
 *	  src/identity/phone.cpp
 *
 *-------------------------------------------------------------------------
 */
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include <phonenumbers/phonenumber.pb.h>
#include <phonenumbers/phonenumberutil.h>

#include "identity/phone.h"

using i18n::phonenumbers::PhoneNumber;
using i18n::phonenumbers::PhoneNumberUtil;

static bool
copy_out(const std::string &from, char *out, size_t outsize)
{
	if (from.size() >= outsize)
		return false;
	memcpy(out, from.c_str(), from.size() + 1);
	return true;
}

int
CdpPhoneE164(const char *value, size_t len, const char *region,
			 char *out, size_t outsize)
{
	try
	{
		const PhoneNumberUtil &util = *PhoneNumberUtil::GetInstance();
		PhoneNumber number;
		std::string result;

		if (util.Parse(std::string(value, len), region, &number) !=
			PhoneNumberUtil::NO_PARSING_ERROR)
			return 0;
		util.Format(number, PhoneNumberUtil::E164, &result);
		return copy_out(result, out, outsize);
	}
	catch (...)
	{
		return 0;
	}
}

int
CdpPhoneRegionKnown(const char *region)
{
	try
	{
		std::set<std::string> regions;

		PhoneNumberUtil::GetInstance()->GetSupportedRegions(&regions);
		return regions.count(region) > 0;
	}
	catch (...)
	{
		return 0;
	}
}

/* 64-bit FNV-1a */
static void
add_to_fingerprint(uint64_t *fingerprint, const std::string &s)
{
	for (unsigned char c : s)
		*fingerprint = (*fingerprint ^ c) * UINT64_C(1099511628211);
}

int
CdpPhoneVersion(char *out, size_t outsize)
{
	try
	{
		const PhoneNumberUtil &util = *PhoneNumberUtil::GetInstance();
		std::set<std::string> regions;
		uint64_t	fingerprint = UINT64_C(14695981039346656037);
		char		hex[17];
		std::string version = "unknown";
		Dl_info		info;

		/* the library has no function that tells; its file's name does */
		if (dladdr(reinterpret_cast<void *>(&PhoneNumberUtil::GetInstance),
				   &info) != 0 && info.dli_fname != NULL)
		{
			char	   *path = realpath(info.dli_fname, NULL);

			if (path != NULL)
			{
				const char *slash = strrchr(path, '/');

				version = slash != NULL ? slash + 1 : path;
				free(path);
			}
		}

		util.GetSupportedRegions(&regions);
		for (const std::string &region : regions)
		{
			add_to_fingerprint(&fingerprint, region);
			for (int type = PhoneNumberUtil::FIXED_LINE;
				 type <= PhoneNumberUtil::VOICEMAIL; type++)
			{
				PhoneNumber number;
				std::string e164;

				if (util.GetExampleNumberForType(region,
												 static_cast<PhoneNumberUtil::PhoneNumberType>(type),
												 &number))
					util.Format(number, PhoneNumberUtil::E164, &e164);
				add_to_fingerprint(&fingerprint, e164);
			}
		}
		snprintf(hex, sizeof(hex), "%016llx",
				 static_cast<unsigned long long>(fingerprint));
		return copy_out(version + " " + hex, out, outsize);
	}
	catch (...)
	{
		return 0;
	}
}
